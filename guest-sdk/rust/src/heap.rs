//! The predictor's heap on targets without a C library: it begins in the memory that the component has
//! from the start.
//!
//! Rust's own allocator there asks for new memory at its first allocation, and for a node to give and to
//! take back memory is much of what a fresh instance costs. `dunlin build` has the linker leave some
//! room behind the data; this takes it first. It is the same allocator otherwise.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32;
use std::cell::{Cell, UnsafeCell};
use std::ptr;

use dlmalloc::{Allocator, Dlmalloc};

const PAGE: usize = 64 << 10;

/// All that 32 bits can address.
const PAGES_MAX: usize = 64 << 10;

/// There is one thread in a component.
struct Heap(UnsafeCell<Dlmalloc<Memory>>);

struct Memory {
    /// What lies behind the data was handed out.
    began: Cell<bool>,
}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Dlmalloc::new_with_allocator(Memory {
    began: Cell::new(false),
})));

#[expect(unsafe_code, reason = "the linker's symbols")]
// SAFETY: both are symbols of every module that `wasm-ld` links; only their addresses are taken.
unsafe extern "C" {
    /// Defined by the linker: behind the data.
    safe static __heap_base: u8;
    /// Defined by the linker: the end of the memory that a component has from the start.
    safe static __heap_end: u8;
}

#[expect(unsafe_code, reason = "an allocator hands out memory")]
// SAFETY: a component has one thread.
unsafe impl Sync for Heap {}

#[expect(unsafe_code, reason = "an allocator hands out memory")]
// SAFETY: each method does what the one of dlmalloc does, which keeps the contract. No call begins
// within another: a component has one thread, and `Memory` allocates nothing.
unsafe impl GlobalAlloc for Heap {
    // SAFETY: the caller's promises are those of the trait.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises; and nobody else is in the allocator, see above.
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    // SAFETY: the caller's promises are those of the trait.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises; and nobody else is in the allocator, see above.
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    // SAFETY: the caller's promises are those of the trait.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; and nobody else is in the allocator, see above.
        unsafe { (*self.0.get()).free(pointer, layout.size(), layout.align()) }
    }

    // SAFETY: the caller's promises are those of the trait.
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises; and nobody else is in the allocator, see above.
        unsafe { (*self.0.get()).realloc(pointer, layout.size(), layout.align(), size) }
    }
}

#[expect(unsafe_code, reason = "an allocator hands out memory")]
// SAFETY: the memory from `__heap_base` to `__heap_end` is nobody's, is there from the start, is zero,
// and is given once; all else is what the system's own allocator gives.
unsafe impl Allocator for Memory {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        let base = ptr::from_ref(&__heap_base).cast_mut();
        let room = ptr::from_ref(&__heap_end)
            .addr()
            .saturating_sub(base.addr());
        if !self.began.get() && size <= room {
            self.began.set(true);
            return (base, room, 0);
        }
        let pages = size.div_ceil(PAGE);
        match wasm32::memory_grow::<0>(pages) {
            usize::MAX => (ptr::null_mut(), 0, 0),
            before => {
                let base = ptr::with_exposed_provenance_mut(before * PAGE);
                // No pointer may reach the end of the address space.
                let end_kept = usize::from(before + pages == PAGES_MAX) * 16;
                (base, pages * PAGE - end_kept, 0)
            }
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}
