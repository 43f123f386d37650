//! What a backend is made of: wheels of the Python Package Index, by version, size and hash, and the
//! files that are taken out of them.
//!
//! The libraries of a backend need each other and the C++ runtime, nothing else: see `readelf -d`.
//! libtorch is built with CUDA and wants two of its libraries to be there, though it uses them only
//! on a GPU.

use std::env::consts::{ARCH, OS};
use std::fmt;

use crate::exit::{Exit, Failure};

/// A backend that is not part of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Native {
    /// ONNX Runtime, for ONNX files: 24 MB to fetch, 29 MB installed
    #[value(name = "onnxruntime")]
    OnnxRuntime,
    /// libtorch, for TorchScript files: 553 MB to fetch, 459 MB installed
    #[value(name = "torchscript")]
    TorchScript,
}

impl Native {
    pub const ALL: [Self; 2] = [Self::OnnxRuntime, Self::TorchScript];

    /// As in a deployment file, and in the backend folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "onnxruntime",
            Self::TorchScript => "torchscript",
        }
    }

    /// The file that a node opens, below the backend's folder.
    pub fn library(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "libonnxruntime.so",
            Self::TorchScript => "libdunlin_torch.so",
        }
    }

    /// The variable with a library that is used in place of any other.
    pub fn variable(self) -> &'static str {
        match self {
            Self::OnnxRuntime => "DUNLIN_ONNXRUNTIME_LIBRARY",
            Self::TorchScript => "DUNLIN_TORCHSCRIPT_LIBRARY",
        }
    }
}

impl fmt::Display for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a backend is made on this machine.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The backend's own version.
    pub(super) version: &'static str,
    pub(super) wheels: &'static [Wheel],
    /// Bytes that are written besides the wheels, rounded up.
    pub(super) unpacked: u64,
}

/// One file of the index.
#[derive(Debug)]
pub(super) struct Wheel {
    pub(super) project: &'static str,
    pub(super) version: &'static str,
    pub(super) sha256: &'static str,
    pub(super) size: u64,
    pub(super) take: &'static [Take],
}

/// Something out of a wheel, and where it goes.
#[derive(Debug)]
pub(super) enum Take {
    /// A file of the backend.
    File(&'static str, &'static str),
    /// Everything below a folder of the wheel: headers, for the compiler alone.
    Headers(&'static str),
}

impl Recipe {
    pub(super) fn of(native: Native) -> Result<Self, Failure> {
        let wheels = match (native, OS, ARCH) {
            (Native::OnnxRuntime, "linux", "x86_64") => ONNXRUNTIME_X86_64,
            (Native::OnnxRuntime, "linux", "aarch64") => ONNXRUNTIME_AARCH64,
            (Native::TorchScript, "linux", "x86_64") => TORCHSCRIPT_X86_64,
            (Native::TorchScript, "linux", "aarch64") => TORCHSCRIPT_AARCH64,
            _ => {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("{native} cannot be installed on {ARCH} {OS}, only on x86_64 and aarch64 Linux"),
                )
                .next(format!("name a library of your own: {}=FILE", native.variable())));
            }
        };
        Ok(match native {
            Native::OnnxRuntime => Self {
                version: "1.31.1",
                wheels,
                unpacked: 32 << 20,
            },
            Native::TorchScript => Self {
                version: "2.15.0",
                wheels,
                unpacked: 640 << 20,
            },
        })
    }
}

impl Wheel {
    /// Its name in the cache.
    pub(super) fn entry(&self) -> String {
        format!("{}-{}-{ARCH}.whl", self.project, self.version)
    }
}

impl fmt::Display for Wheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.project, self.version)
    }
}

/// The Python whose wheels are pinned. The files that are taken out of them do not depend on it, nor
/// on the Python of this machine.
pub(super) const PYTHON: &str = "3.12";

/// The tags that the pinned wheels have, but for the machine's architecture.
pub(super) const PLATFORMS: [&str; 5] = [
    "manylinux_2_28",
    "manylinux_2_27",
    "manylinux_2_25",
    "manylinux_2_17",
    "manylinux2014",
];
pub(super) const ABIS: [&str; 3] = ["cp312", "abi3", "none"];

const TAKE_ONNXRUNTIME: &[Take] = &[Take::File(
    "onnxruntime/capi/libonnxruntime.so.1.31.1",
    "libonnxruntime.so",
)];

const ONNXRUNTIME_X86_64: &[Wheel] = &[Wheel {
    project: "onnxruntime",
    version: "1.31.1",
    sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
    size: 23_760_988,
    take: TAKE_ONNXRUNTIME,
}];

const ONNXRUNTIME_AARCH64: &[Wheel] = &[Wheel {
    project: "onnxruntime",
    version: "1.31.1",
    sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
    size: 21_420_803,
    take: TAKE_ONNXRUNTIME,
}];

const TAKE_CUPTI: &[Take] = &[Take::File(
    "nvidia/cu13/lib/libcupti.so.13",
    "lib/libcupti.so.13",
)];
const TAKE_CUDART: &[Take] = &[Take::File(
    "nvidia/cu13/lib/libcudart.so.13",
    "lib/libcudart.so.13",
)];

/// The smallest first: a machine that cannot fetch finds out soon.
const TORCHSCRIPT_X86_64: &[Wheel] = &[
    Wheel {
        project: "nvidia-cuda-runtime",
        version: "13.2.86",
        sha256: "3498247680dfddce31bad102af7e3e26fc795342a3cac64722bb0fa95e7f60f0",
        size: 2_323_576,
        take: TAKE_CUDART,
    },
    Wheel {
        project: "nvidia-cuda-cupti",
        version: "13.2.86",
        sha256: "8fa29f15dd8336181f961764d9d95236fc6b931dd0c8fcf8cd70aab0c310b586",
        size: 11_988_600,
        take: TAKE_CUPTI,
    },
    Wheel {
        project: "torch",
        version: "2.15.0",
        sha256: "6d8c86f4e33a9f12a58149bd9b0d64351632b8eb44479be8ff85e5389932dd79",
        size: 539_172_785,
        take: &[
            Take::File("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
            Take::File("torch/lib/libc10.so", "lib/libc10.so"),
            Take::File("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            Take::Headers("torch/include/"),
        ],
    },
];

/// Here libtorch also needs Arm's Compute Library and NVIDIA's BLAS and LAPACK for Arm CPUs, which
/// its wheel carries.
const TORCHSCRIPT_AARCH64: &[Wheel] = &[
    Wheel {
        project: "nvidia-cuda-runtime",
        version: "13.2.86",
        sha256: "37844957894bfdecf90243568d21a2cb251b66106915b71459a23c8e6ef2da69",
        size: 2_341_433,
        take: TAKE_CUDART,
    },
    Wheel {
        project: "nvidia-cuda-cupti",
        version: "13.2.86",
        sha256: "d9a5c133f73fcb9013f3ada0da6fb54d4117618d81f3f5a0419417ea6ee829d4",
        size: 11_760_263,
        take: TAKE_CUPTI,
    },
    Wheel {
        project: "torch",
        version: "2.15.0",
        sha256: "9e51cf9460c5441dcd2a4f31ece207e35ea7c3d2535be0f929cca4944e2eeb18",
        size: 483_664_949,
        take: &[
            Take::File("torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
            Take::File("torch/lib/libc10.so", "lib/libc10.so"),
            Take::File("torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
            Take::File("torch/lib/libarm_compute.so", "lib/libarm_compute.so"),
            Take::File(
                "torch/lib/libarm_compute_graph.so",
                "lib/libarm_compute_graph.so",
            ),
            Take::File(
                "torch/lib/libnvpl_blas_core.so.0",
                "lib/libnvpl_blas_core.so.0",
            ),
            Take::File(
                "torch/lib/libnvpl_blas_lp64_gomp.so.0",
                "lib/libnvpl_blas_lp64_gomp.so.0",
            ),
            Take::File(
                "torch/lib/libnvpl_lapack_core.so.0",
                "lib/libnvpl_lapack_core.so.0",
            ),
            Take::File(
                "torch/lib/libnvpl_lapack_lp64_gomp.so.0",
                "lib/libnvpl_lapack_lp64_gomp.so.0",
            ),
            Take::Headers("torch/include/"),
        ],
    },
];
