/* What one core can do at most: fp32 multiply-adds on registers, no memory. fma_peak SECONDS prints GFLOP/s. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define CHAINS 24 /* independent sums: more than two units of four cycles' latency need, fewer than the registers */

typedef float vec __attribute__((vector_size(4 * LANES)));

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int argc, char **argv) {
  double limit = argc > 1 ? atof(argv[1]) : 1.0, best = 0, start = now();
  vec sums[CHAINS], factor, term;
  for (int lane = 0; lane < LANES; lane++) {
    factor[lane] = 0.999f;
    term[lane] = 0.001f * (argc + lane);
    for (int chain = 0; chain < CHAINS; chain++) sums[chain][lane] = chain + lane;
  }
  while (now() - start < limit) { /* the best of short rounds: a machine that is shared is slow now and then */
    double began = now();
    for (int round = 0; round < 2000000; round++) {
#pragma GCC unroll 24
      for (int chain = 0; chain < CHAINS; chain++) sums[chain] = sums[chain] * factor + term;
    }
    double rate = 2000000.0 * CHAINS * LANES * 2 / (now() - began) / 1e9;
    if (rate > best) best = rate;
  }
  float total = 0; /* printed, so that the compiler may not leave the work out */
  for (int chain = 0; chain < CHAINS; chain++)
    for (int lane = 0; lane < LANES; lane++) total += sums[chain][lane];
  printf("%.2f %g\n", best, total);
  return 0;
}
