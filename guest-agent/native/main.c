/*
 * The agent's process: a QuickJS runtime that evaluates the embedded bytecode and then calls the turn function that
 * it registered, for ever. One turn waits for events and dispatches them (src/event-loop.ts).
 *
 * As PID 1 this must never return: the kernel panics when init ends.
 */
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "runtime.h"
#include "sys.h"

/* The agent's own heap, in bytes: a runaway allocation becomes a JavaScript error instead of the guest's OOM. */
#define MEMORY_LIMIT (64u << 20)
/* Bytes of C stack that JavaScript may use; the kernel gives the main thread 8 MiB. */
#define STACK_LIMIT (1u << 20)
/* First garbage collection (cycles only; everything else is freed by reference count), in bytes of heap. */
#define GC_THRESHOLD (2u << 20)

int runtime_argc;
char **runtime_argv;

/* Zero-initialised they are the number 0, which is no function. */
static JSValue turn_function;
static JSValue rejection_function;
/* CLOCK_BOOTTIME at the start of the program. */
static struct timespec started;

static void write_stderr(const char *text, size_t length) {
    while (length > 0) {
        ssize_t written = write(2, text, length);
        if (written <= 0) return;
        text += written;
        length -= (size_t)written;
    }
}

/* Last resort: JavaScript's own reporter could not be reached. */
static void print_exception(JSContext *ctx) {
    JSValue exception = JS_GetException(ctx);
    static const char prefix[] = "caisson-agent: uncaught ";
    write_stderr(prefix, sizeof prefix - 1);
    const char *text = JS_ToCString(ctx, exception);
    if (text) write_stderr(text, strlen(text));
    JS_FreeCString(ctx, text);
    if (JS_IsObject(exception)) {
        JSValue stack = JS_GetPropertyStr(ctx, exception, "stack");
        const char *trace = JS_IsString(stack) ? JS_ToCString(ctx, stack) : NULL;
        if (trace) {
            write_stderr("\n", 1);
            write_stderr(trace, strlen(trace));
            JS_FreeCString(ctx, trace);
        }
        JS_FreeValue(ctx, stack);
    }
    write_stderr("\n", 1);
    JS_FreeValue(ctx, exception);
}

static void run_jobs(JSRuntime *rt) {
    JSContext *ctx;
    int outcome;
    while ((outcome = JS_ExecutePendingJob(rt, &ctx)) != 0)
        if (outcome < 0) print_exception(ctx);
}

static void on_rejection(JSContext *ctx, JSValueConst promise, JSValueConst reason, JS_BOOL handled, void *opaque) {
    (void)opaque;
    if (!JS_IsFunction(ctx, rejection_function)) return;
    JSValueConst arguments[] = {promise, reason, JS_NewBool(ctx, handled)};
    JSValue result = JS_Call(ctx, rejection_function, JS_UNDEFINED, 3, arguments);
    if (JS_IsException(result)) print_exception(ctx);
    JS_FreeValue(ctx, result);
}

static void set_function(JSContext *ctx, JSValue *slot, JSValueConst value) {
    JSValue old = *slot;
    *slot = JS_DupValue(ctx, value);
    JS_FreeValue(ctx, old);
}

SYS_IMPL(js_set_turn) {
    SYS_UNUSED;
    set_function(ctx, &turn_function, argv[0]);
    return JS_UNDEFINED;
}

SYS_IMPL(js_set_rejection_handler) {
    SYS_UNUSED;
    set_function(ctx, &rejection_function, argv[0]);
    return JS_UNDEFINED;
}

SYS_IMPL(js_run_jobs) {
    SYS_UNUSED;
    run_jobs(JS_GetRuntime(ctx));
    return JS_UNDEFINED;
}

SYS_IMPL(js_collect_garbage) {
    SYS_UNUSED;
    JS_RunGC(JS_GetRuntime(ctx));
    return JS_UNDEFINED;
}

static JSValue call_job(JSContext *ctx, int argc, JSValueConst *argv) {
    (void)argc;
    return JS_Call(ctx, argv[0], JS_UNDEFINED, 0, NULL);
}

SYS_IMPL(js_queue_job) {
    SYS_UNUSED;
    if (!JS_IsFunction(ctx, argv[0])) return JS_ThrowTypeError(ctx, "a function is expected");
    return JS_EnqueueJob(ctx, call_job, 1, argv) ? JS_EXCEPTION : JS_UNDEFINED;
}

SYS_IMPL(js_started_us) {
    SYS_UNUSED;
    return JS_NewInt64(ctx, (int64_t)started.tv_sec * 1000000 + started.tv_nsec / 1000);
}

static const JSCFunctionListEntry runtime_functions[] = {
    SYS_FN("setTurn", 1, js_set_turn),
    SYS_FN("setRejectionHandler", 1, js_set_rejection_handler),
    SYS_FN("runJobs", 0, js_run_jobs),
    SYS_FN("collectGarbage", 0, js_collect_garbage),
    SYS_FN("queueJob", 1, js_queue_job),
    SYS_FN("startedUs", 0, js_started_us),
};
SYS_TABLE(runtime_functions)

static void trim_math(JSContext *ctx) {
    JSValue global = JS_GetGlobalObject(ctx);
    JSValue math = JS_GetPropertyStr(ctx, global, "Math");
    for (const char *const *name = trimmed_math; *name; name++) {
        JSAtom atom = JS_NewAtom(ctx, *name);
        JS_DeleteProperty(ctx, math, atom, 0);
        JS_FreeAtom(ctx, atom);
    }
    JS_FreeValue(ctx, math);
    JS_FreeValue(ctx, global);
}

static JSContext *new_context(JSRuntime *rt) {
    JSContext *ctx = JS_NewContextRaw(rt);
    if (!ctx) return NULL;
    /* Only what the bundle uses: no Eval (and so no parser at run time), no Proxy, no WeakRef. */
    JS_AddIntrinsicBaseObjects(ctx);
    JS_AddIntrinsicDate(ctx);
    JS_AddIntrinsicRegExp(ctx);
    JS_AddIntrinsicJSON(ctx);
    JS_AddIntrinsicMapSet(ctx);
    JS_AddIntrinsicTypedArrays(ctx);
    JS_AddIntrinsicPromise(ctx);
    trim_math(ctx);
    return ctx;
}

static int evaluate(JSContext *ctx) {
    JSValue module = JS_ReadObject(ctx, agent_bytecode, agent_bytecode_size, JS_READ_OBJ_BYTECODE);
    if (JS_IsException(module)) return -1;
    if (JS_ResolveModule(ctx, module) < 0) {
        JS_FreeValue(ctx, module);
        return -1;
    }
    JSValue result = JS_EvalFunction(ctx, module);
    if (JS_IsException(result)) return -1;
    if (JS_PromiseState(ctx, result) == JS_PROMISE_REJECTED) {
        JS_Throw(ctx, JS_PromiseResult(ctx, result));
        JS_FreeValue(ctx, result);
        return -1;
    }
    JS_FreeValue(ctx, result);
    return 0;
}

/* Without a turn function nothing can be done; PID 1 stays so that the message on the console can be read. */
static int stop(void) {
    if (getpid() != 1) return 70; /* EX_SOFTWARE of sysexits.h */
    for (;;) pause();
}

int main(int argc, char **argv) {
    clock_gettime(CLOCK_BOOTTIME, &started);
    runtime_argc = argc;
    runtime_argv = argv;
    signal(SIGPIPE, SIG_IGN);
    spawner_start();
    JSRuntime *rt = JS_NewRuntime();
    JSContext *ctx = rt ? new_context(rt) : NULL;
    if (!ctx) {
        static const char message[] = "caisson-agent: out of memory\n";
        write_stderr(message, sizeof message - 1);
        return stop();
    }
    JS_SetMemoryLimit(rt, MEMORY_LIMIT);
    JS_SetMaxStackSize(rt, STACK_LIMIT);
    JS_SetGCThreshold(rt, GC_THRESHOLD);
    JS_SetHostPromiseRejectionTracker(rt, on_rejection, NULL);
    if (!sys_module(ctx) || evaluate(ctx) < 0) print_exception(ctx);
    for (;;) {
        run_jobs(rt);
        if (!JS_IsFunction(ctx, turn_function)) return stop();
        JSValue result = JS_Call(ctx, turn_function, JS_UNDEFINED, 0, NULL);
        if (JS_IsException(result)) {
            print_exception(ctx);
            /* A turn that fails at once must not take the processor. */
            nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        }
        JS_FreeValue(ctx, result);
    }
}
