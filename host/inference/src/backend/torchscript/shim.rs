//! The C interface of `shim/dunlin_torch.h`, made safe: what it gives is freed, its texts become
//! errors, and its memory lives as long as somebody reads it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::{ptr, slice};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::backend::locate::open_library;
use crate::tensor::{Shape, TensorError};
use crate::{DType, Tensor};

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian, and libtorch takes their bytes as they are");

/// `DUNLIN_TORCH_ABI` of the header that this module follows.
const ABI: u32 = 1;

#[repr(C)]
struct RawTensor {
    dtype: i32,
    rank: u32,
    shape: *const i64,
    data: *const c_void,
}

/// The opaque types of the header.
#[repr(C)]
struct RawModule([u8; 0]);
#[repr(C)]
struct RawOutputs([u8; 0]);
#[repr(C)]
struct RawMemory([u8; 0]);

/// Declares the functions that are looked up in the library, under their names in the header.
macro_rules! functions {
    ($($field:ident: $name:literal fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        #[derive(Clone, Copy, Debug)]
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            fn find(library: &libloading::Library) -> Result<Self, String> {
                let missing = |name: &str| format!("it is a library, but it has no {name}");
                $(
                    #[expect(unsafe_code, reason = "the library speaks C")]
                    // SAFETY: the library says in `dunlin_torch_abi`, which was asked before, that
                    // it was compiled from the header whose functions have these types.
                    let $field = *unsafe { library.get(concat!($name, "\0").as_bytes()) }
                        .map_err(|_| missing($name))?;
                )*
                Ok(Functions { $($field,)* })
            }
        }
    };
}

functions! {
    version: "dunlin_torch_version" fn() -> *const c_char;
    free_text: "dunlin_torch_free_text" fn(*mut c_char);
    load: "dunlin_torch_load" fn(*const c_char, *const c_void, u64, i32, *mut *mut RawModule)
        -> *mut c_char;
    unload: "dunlin_torch_unload" fn(*mut RawModule);
    arguments: "dunlin_torch_arguments" fn(*const RawModule, *mut u32, *mut u32);
    run: "dunlin_torch_run" fn(*const RawModule, *const RawTensor, u32, i32, *mut *mut RawOutputs)
        -> *mut c_char;
    output_count: "dunlin_torch_output_count" fn(*const RawOutputs) -> u32;
    output_positional: "dunlin_torch_output_positional" fn(*const RawOutputs) -> i32;
    output_name: "dunlin_torch_output_name" fn(*const RawOutputs, u32) -> *const c_char;
    output_take: "dunlin_torch_output_take" fn(*mut RawOutputs, u32, *mut RawTensor)
        -> *mut RawMemory;
    release: "dunlin_torch_release" fn(*mut RawMemory);
    outputs_free: "dunlin_torch_outputs_free" fn(*mut RawOutputs);
}

/// The open library. It stays open for as long as the process lives, so its functions do too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shim {
    functions: Functions,
}

impl Shim {
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let library = open_library(path)?;
        #[expect(unsafe_code, reason = "the library speaks C")]
        let abi = {
            // SAFETY: every version of the header declares this function so.
            let abi =
                unsafe { library.get::<unsafe extern "C" fn() -> u32>(b"dunlin_torch_abi\0") };
            let abi =
                abi.map_err(|_| "it is a library, but not Dunlin's over libtorch".to_owned())?;
            // SAFETY: it takes nothing and gives a number.
            unsafe { abi() }
        };
        if abi != ABI {
            return Err(format!(
                "it was built for another version of Dunlin (interface {abi}, not {ABI})"
            ));
        }
        let functions = Functions::find(&library)?;
        std::mem::forget(library);
        Ok(Shim { functions })
    }

    /// libtorch's.
    pub(super) fn version(&self) -> String {
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the function gives a constant C string.
        let version = unsafe { CStr::from_ptr((self.functions.version)()) };
        version.to_string_lossy().into_owned()
    }

    /// Loads the module from a file, or from bytes. The error is libtorch's text.
    pub(super) fn load(
        self,
        from: Archive<'_>,
        optimize_for_inference: bool,
    ) -> Result<Module, String> {
        let path = match from {
            Archive::File(path) => Some(
                CString::new(path.as_os_str().as_bytes())
                    .map_err(|_| "the path has a zero byte".to_owned())?,
            ),
            Archive::Bytes(_) => None,
        };
        let bytes = match from {
            Archive::File(_) => &[],
            Archive::Bytes(bytes) => bytes,
        };
        let mut module = ptr::null_mut();
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the path is a C string or null, the bytes are as many as is said, and both live
        // until the call returns, after which the library does not read them.
        let failure = unsafe {
            (self.functions.load)(
                path.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
                bytes.as_ptr().cast(),
                bytes.len() as u64,
                i32::from(optimize_for_inference),
                &raw mut module,
            )
        };
        self.check(failure)?;
        Ok(Module { shim: self, module })
    }

    /// Takes over the text of a failure.
    fn check(self, failure: *mut c_char) -> Result<(), String> {
        if failure.is_null() {
            return Ok(());
        }
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: what is not null is a C string of the library's, given back once and not read
        // afterwards.
        let text = unsafe {
            let text = CStr::from_ptr(failure).to_string_lossy().into_owned();
            (self.functions.free_text)(failure);
            text
        };
        Err(text)
    }
}

/// Where a TorchScript archive is.
#[derive(Clone, Copy)]
pub(super) enum Archive<'a> {
    File(&'a Path),
    Bytes(&'a [u8]),
}

/// A loaded module.
pub(super) struct Module {
    shim: Shim,
    module: *mut RawModule,
}

#[expect(unsafe_code, reason = "a module is shared by the threads that run it")]
// SAFETY: the header lets any thread run, and unload, a module.
unsafe impl Send for Module {}

#[expect(unsafe_code, reason = "a module is shared by the threads that run it")]
// SAFETY: the header lets several threads run one module at once; nothing else takes it by a shared
// reference but `arguments`, which reads what loading wrote.
unsafe impl Sync for Module {}

impl Module {
    /// How many inputs `forward` needs, and how many it takes at most.
    pub(super) fn arguments(&self) -> (u32, u32) {
        let (mut needed, mut most) = (0, 0);
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the module is loaded, and both numbers are written and not kept.
        unsafe {
            (self.shim.functions.arguments)(self.module, &raw mut needed, &raw mut most);
        }
        (needed, most)
    }

    /// Runs `forward`. The error is the text of a C++ exception.
    pub(super) fn run(&self, inputs: &[Input<'_>], threads: i32) -> Result<Outputs, String> {
        let raw: SmallVec<[RawTensor; 4]> = inputs.iter().map(Input::raw).collect();
        let mut outputs = ptr::null_mut();
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the module is loaded; each input has the bytes that its shape and type say, at an
        // address that suits the type, which the library reads until the call returns.
        let failure = unsafe {
            (self.shim.functions.run)(
                self.module,
                raw.as_ptr(),
                u32::try_from(raw.len()).unwrap_or(0),
                threads,
                &raw mut outputs,
            )
        };
        self.shim.check(failure)?;
        Ok(Outputs {
            shim: self.shim,
            outputs,
        })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the module is unloaded once, and nobody runs it: this is the last reference.
        unsafe {
            (self.shim.functions.unload)(self.module);
        }
    }
}

/// An input as libtorch sees it: in the tensor's memory, or a copy at an address that suits.
pub(super) struct Input<'t> {
    dtype: i32,
    shape: SmallVec<[i64; 4]>,
    data: Data<'t>,
}

enum Data<'t> {
    Lent(&'t [u8]),
    /// Words, for their alignment.
    Copied(Vec<u64>),
}

impl<'t> Input<'t> {
    /// None for byte strings, which libtorch does not have.
    pub(super) fn new(tensor: &'t Tensor) -> Option<Self> {
        let size = tensor.dtype().size()?;
        let bytes: &[u8] = tensor.data();
        let data = if bytes.as_ptr().addr().is_multiple_of(size) {
            Data::Lent(bytes)
        } else {
            let words = bytes.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            });
            Data::Copied(words.collect())
        };
        Some(Input {
            dtype: raw_dtype(tensor.dtype())?,
            shape: tensor.shape().iter().map(|size| *size as i64).collect(),
            data,
        })
    }

    fn raw(&self) -> RawTensor {
        RawTensor {
            dtype: self.dtype,
            rank: u32::try_from(self.shape.len()).unwrap_or(0),
            shape: self.shape.as_ptr(),
            data: match &self.data {
                Data::Lent(bytes) => bytes.as_ptr().cast(),
                Data::Copied(words) => words.as_ptr().cast(),
            },
        }
    }
}

/// What `forward` returned.
pub(super) struct Outputs {
    shim: Shim,
    outputs: *mut RawOutputs,
}

/// One of the tensors that `forward` returned.
pub(super) struct Output {
    pub(super) name: String,
    pub(super) tensor: Tensor,
}

impl Outputs {
    /// Whether the names are made from positions, and mean nothing.
    pub(super) fn is_positional(&self) -> bool {
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the outputs are freed when this is dropped.
        let positional = unsafe { (self.shim.functions.output_positional)(self.outputs) };
        positional != 0
    }

    /// The tensors, whose memory stays libtorch's. The error says what is wrong with one.
    pub(super) fn take(self) -> Result<Vec<Output>, String> {
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the outputs are freed when this is dropped.
        let count = unsafe { (self.shim.functions.output_count)(self.outputs) };
        (0..count).map(|position| self.take_one(position)).collect()
    }

    fn take_one(&self, position: u32) -> Result<Output, String> {
        let functions = &self.shim.functions;
        let mut raw = RawTensor {
            dtype: -1,
            rank: 0,
            shape: ptr::null(),
            data: ptr::null(),
        };
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: the outputs are freed when this is dropped, `position` is below their number, and
        // so the name is a C string that lives until then. The tensor is described and not kept.
        let (name, memory) = unsafe {
            let name = CStr::from_ptr((functions.output_name)(self.outputs, position));
            let name = name.to_string_lossy().into_owned();
            let memory = (functions.output_take)(self.outputs, position, &raw mut raw);
            (name, memory)
        };
        if memory.is_null() {
            return Err(format!("output {name:?} cannot be taken"));
        }
        let memory = Memory {
            shim: self.shim,
            memory,
            data: raw.data.cast(),
            length: 0,
        };
        let Some(dtype) = dtype_of(raw.dtype) else {
            return Err(format!("output {name:?} has an unknown datatype"));
        };
        let sizes = match raw.rank {
            0 => &[],
            rank => {
                #[expect(unsafe_code, reason = "the library speaks C")]
                // SAFETY: the shape has `rank` sizes, at least one, which live as long as `memory`.
                unsafe {
                    slice::from_raw_parts(raw.shape, rank as usize)
                }
            }
        };
        let shape: Shape = sizes.iter().map(|size| *size as u64).collect();
        let tensor = memory
            .into_tensor(dtype, &shape)
            .map_err(|error| format!("output {name:?} is not a valid tensor: {error}"))?;
        Ok(Output { name, tensor })
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: freed once; what was taken out of them is on its own.
        unsafe {
            (self.shim.functions.outputs_free)(self.outputs);
        }
    }
}

/// The memory of one output.
struct Memory {
    shim: Shim,
    memory: *mut RawMemory,
    data: *const u8,
    length: usize,
}

#[expect(unsafe_code, reason = "an answer goes to whichever thread writes it")]
// SAFETY: the library lets any thread release the memory, and nobody writes to it.
unsafe impl Send for Memory {}

impl Memory {
    fn into_tensor(mut self, dtype: DType, shape: &[u64]) -> Result<Tensor, TensorError> {
        let elements = shape.iter().try_fold(1_usize, |product, size| {
            product.checked_mul(usize::try_from(*size).ok()?)
        });
        let size = dtype.size().unwrap_or_default();
        // A tensor that exists fits into memory, so this is no number that could overflow.
        self.length = elements.unwrap_or_default().saturating_mul(size);
        Tensor::new(dtype, shape, Bytes::from_owner(self))
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        if self.length == 0 || self.data.is_null() {
            return &[];
        }
        #[expect(unsafe_code, reason = "the memory is libtorch's")]
        // SAFETY: a contiguous tensor on the CPU with `length` bytes by its shape and type, which
        // the library keeps, for nobody else, until it is released.
        unsafe {
            slice::from_raw_parts(self.data, self.length)
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "the library speaks C")]
        // SAFETY: released once, when nobody reads it any more.
        unsafe {
            (self.shim.functions.release)(self.memory);
        }
    }
}

/// `enum dunlin_torch_dtype`, by position.
const DTYPES: [DType; 13] = [
    DType::Bool,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
];

fn raw_dtype(dtype: DType) -> Option<i32> {
    let position = DTYPES.iter().position(|known| *known == dtype)?;
    i32::try_from(position).ok()
}

fn dtype_of(raw: i32) -> Option<DType> {
    DTYPES.get(usize::try_from(raw).ok()?).copied()
}
