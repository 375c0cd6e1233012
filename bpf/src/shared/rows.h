/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * The rows of every pinned map, as C sees them and as Go sees them: bpf/row is generated from this
 * folder (make generate), so no layout is kept by hand twice.
 *
 * Rules: no implicit padding (pad fields are named and must be zero, they are part of hash keys);
 * addresses are 128 bit, IPv4 as ::ffff:a.b.c.d; __be16 and __be32 are in network order, all else
 * is in host order. A changed layout needs a new LAYOUT_VERSION: it names the pin directory.
 */

#include "shared/block.h"
#include "shared/edge.h"
#include "shared/event.h"
#include "shared/flow.h"
#include "shared/layout.h"
#include "shared/name.h"
#include "shared/socket.h"
#include "shared/task.h"
#include "shared/traffic.h"
#include "shared/verdict.h"
#include "shared/vip.h"
