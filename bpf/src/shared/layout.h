/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

#include "types.h"

enum layout {
	LAYOUT_VERSION = 5,
};

/* 4-byte aligned so that copies and compares are done by words. */
struct addr {
	__u8 bytes[16];
} __attribute__((aligned(4)));
