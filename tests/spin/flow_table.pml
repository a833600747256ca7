// SPDX-License-Identifier: Apache-2.0
/*
 * The concurrency protocol of docs/flow-table.md, for spin. docs/flow-table-proof.md says what is
 * modelled and what is not; test_flow_table.py runs it.
 *
 *   spin -a -DSETUP_NAME [-DBREAK_NAME] flow_table.pml && gcc -O1 -DSAFETY pan.c && ./a.out
 *
 * Every global word of the maps is a byte of m[], so that a load or a store is one step, and others may
 * come between any two. An atomic or d_step block touches one word that another process may change;
 * whatever else is in it is private, or is bookkeeping of the proof ("ghost"), which the program does
 * not have.
 *
 * Files: words.h (memory, states, setups), ghost.h (what must hold), xdp.h (a CPU), daemon.h.
 */
#include "words.h"
#include "ghost.h"
#include "xdp.h"
#include "daemon.h"

init {
    d_step {
        SETUP
        PUT_IN_RING
    }
    atomic {
        run daemon();
        CPUS
    }
}
