/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include "shared/types.h"

/* How edge nodes and those of backends name a task: the last half of its address, 128 bit. */
struct edge_task {
	__u8 bytes[8];
};
