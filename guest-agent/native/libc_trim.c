/*
 * Stands in for parts of libc and libm that the static link would otherwise pull in whole and that the agent cannot
 * use: trigonometry (about 250 kB with its per-processor variants), time zones, and assertion messages translated
 * through gettext and iconv. main.c removes the same functions from the JavaScript object Math.
 */
#include <math.h>
#include <time.h>

#include "runtime.h"
#include "sys.h"

const char *const trimmed_math[] = {"sin",  "cos",  "tan",   "asin",  "acos",  "atan", "atan2", "sinh",
                                    "cosh", "tanh", "asinh", "acosh", "atanh", "cbrt", NULL};

#define TRIM(name)                                                                                                     \
    double name(double x) { return x * (double)NAN; }
TRIM(sin)
TRIM(cos)
TRIM(tan)
TRIM(asin)
TRIM(acos)
TRIM(atan)
TRIM(sinh)
TRIM(cosh)
TRIM(tanh)
TRIM(asinh)
TRIM(acosh)
TRIM(atanh)
TRIM(cbrt)
double atan2(double y, double x) {
    return x * y * (double)NAN;
}

/* The guest has no time zone data: local time is UTC. QuickJS asks only for the offset. */
struct tm *localtime_r(const time_t *restrict time, struct tm *restrict result) {
    (void)time;
    memset(result, 0, sizeof *result);
    return result;
}

/*
 * What the start and the end of a static program call with the table of its stack frames, in place of libgcc's, which read
 * it (--wrap, build.mjs): the build takes the table out, and its place is mapped only where something else happens to lie
 * in the same page.
 */
void __wrap___register_frame_info(const void *begin, void *object) {
    (void)begin, (void)object;
}
void *__wrap___deregister_frame_info(const void *begin) {
    (void)begin;
    return NULL;
}

static void put(const char *text) {
    if (write(2, text, strlen(text)) < 0) return;
}

/* What the macro assert() calls; PID 1 cannot go on from a broken invariant of the engine. */
__attribute__((noreturn)) void __assert_fail(const char *expression, const char *file, unsigned int line,
                                             const char *function) {
    (void)line;
    put("caisson-agent: assertion failed in ");
    put(function);
    put(" of ");
    put(file);
    put(": ");
    put(expression);
    put("\n");
    abort();
}
