// Counts the live bytes of a process's heap. It is loaded into Python with LD_PRELOAD, so that PyTorch's memory is
// counted in the same way as the runner counts its own. Needs Linux with glibc.
//
//   cc -O2 -shared -fPIC -o count.so count.c

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Atomic long live;
static _Atomic long peak;

static void grew(void *p) {
    if (!p) return;
    long now = atomic_fetch_add(&live, (long)malloc_usable_size(p)) + (long)malloc_usable_size(p);
    long seen = atomic_load(&peak);
    while (now > seen && !atomic_compare_exchange_weak(&peak, &seen, now)) {}
}

static void shrank(void *p) {
    if (p) atomic_fetch_sub(&live, (long)malloc_usable_size(p));
}

long count_live(void) { return atomic_load(&live); }
long count_peak(void) { return atomic_load(&peak); }
void count_reset(void) { atomic_store(&peak, atomic_load(&live)); }

void *malloc(size_t size) {
    void *p = __libc_malloc(size);
    grew(p);
    return p;
}

void *calloc(size_t count, size_t size) {
    void *p = __libc_calloc(count, size);
    grew(p);
    return p;
}

void *realloc(void *old, size_t size) {
    long before = old ? (long)malloc_usable_size(old) : 0;
    void *p = __libc_realloc(old, size);
    // A failed call leaves the old block; a call for no bytes frees it.
    if (p || !size) atomic_fetch_sub(&live, before);
    grew(p);
    return p;
}

void free(void *p) {
    shrank(p);
    __libc_free(p);
}

void *memalign(size_t alignment, size_t size) {
    void *p = __libc_memalign(alignment, size);
    grew(p);
    return p;
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **out, size_t alignment, size_t size) {
    if (alignment % sizeof(void *) || (alignment & (alignment - 1)) || !alignment) return EINVAL;
    void *p = memalign(alignment, size);
    if (!p) return ENOMEM;
    *out = p;
    return 0;
}
