/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * How a build with another layout of maps takes links over while packets flow: its programs stand
 * in front of the old ones and leave everything to them, until all begin with one store. What the
 * old ones let out just before is not known here until their last rows are carried over: some
 * milliseconds, in which answers are taken on trust.
 */

#include "headers/kernel.h"

enum takeover {
	TAKEOVER_NONE = 0, /* how a load begins */
	TAKEOVER_WAITS = 1,
	TAKEOVER_TRUSTS = 2,
};

/* Go writes. One for all links of an object. */
volatile __u32 taking_over;

static __always_inline bool waits(void)
{
	return taking_over == TAKEOVER_WAITS;
}

static __always_inline bool trusts(void)
{
	return taking_over == TAKEOVER_TRUSTS;
}
