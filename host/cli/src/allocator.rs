//! The program's allocator, also of the native engines: a request's memory is often freed by another thread
//! than took it, for which GNU's allocator locks the other thread's heap.

use std::ptr;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Free blocks of 4 MiB, such as bodies and weights, go back to the system at once.
#[expect(
    unsafe_code,
    reason = "the name under which jemalloc looks for its settings"
)]
// SAFETY: it is what jemalloc declares: a pointer to text that ends with a zero byte and never changes.
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 27] = b"oversize_threshold:4194304\0";

/// Gives all free memory back to the system. By itself jemalloc does that some seconds after it was freed,
/// while somebody takes and frees other memory.
pub(crate) fn give_back() {
    /// 4096 stands for all heaps: `MALLCTL_ARENAS_ALL`.
    const PURGE: &std::ffi::CStr = c"arena.4096.purge";
    #[expect(unsafe_code, reason = "a function of the allocator")]
    // SAFETY: the name is a control without a value, which any thread may use at any time.
    let failed = unsafe {
        tikv_jemalloc_sys::mallctl(
            PURGE.as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            0,
        )
    };
    debug_assert_eq!(failed, 0, "jemalloc has the control");
}
