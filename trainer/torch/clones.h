// Function clones for three generations of x86: the loader picks the widest that the processor has. With contraction off
// (see kernels.h) they give the same numbers, so this is about speed alone.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define STARLING_CLONES [[gnu::target_clones("avx512f", "avx2", "default")]]
#else
#define STARLING_CLONES
#endif
