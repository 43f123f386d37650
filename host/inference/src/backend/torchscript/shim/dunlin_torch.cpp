#include "dunlin_torch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>
#include <caffe2/serialize/read_adapter_interface.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/script.h>
#include <torch/version.h>

namespace {

struct Output {
  std::string name;
  at::Tensor tensor;
};

char *text_of(const std::string &text) {
  char *copy = static_cast<char *>(std::malloc(text.size() + 1));
  if (copy != nullptr) {
    std::memcpy(copy, text.c_str(), text.size() + 1);
  }
  return copy;
}

/// Makes a text of whatever `work` throws.
template <typename Work>
char *guarded(Work &&work) noexcept {
  try {
    try {
      work();
      return nullptr;
    } catch (const c10::Error &error) {
      return text_of(error.what_without_backtrace());
    } catch (const std::exception &error) {
      return text_of(error.what());
    } catch (...) {
      return text_of("an exception that is no std::exception");
    }
  } catch (...) {
    return strdup("out of memory");
  }
}

std::optional<at::ScalarType> scalar_type(int32_t dtype) {
  switch (dtype) {
    case DUNLIN_TORCH_BOOL: return at::kBool;
    case DUNLIN_TORCH_UINT8: return at::kByte;
    case DUNLIN_TORCH_UINT16: return at::kUInt16;
    case DUNLIN_TORCH_UINT32: return at::kUInt32;
    case DUNLIN_TORCH_UINT64: return at::kUInt64;
    case DUNLIN_TORCH_INT8: return at::kChar;
    case DUNLIN_TORCH_INT16: return at::kShort;
    case DUNLIN_TORCH_INT32: return at::kInt;
    case DUNLIN_TORCH_INT64: return at::kLong;
    case DUNLIN_TORCH_FP16: return at::kHalf;
    case DUNLIN_TORCH_BF16: return at::kBFloat16;
    case DUNLIN_TORCH_FP32: return at::kFloat;
    case DUNLIN_TORCH_FP64: return at::kDouble;
    default: return std::nullopt;
  }
}

std::optional<int32_t> dtype_of(at::ScalarType type) {
  for (int32_t dtype = DUNLIN_TORCH_BOOL; dtype <= DUNLIN_TORCH_FP64; ++dtype) {
    if (scalar_type(dtype) == type) {
      return dtype;
    }
  }
  return std::nullopt;
}

class Memory final : public caffe2::serialize::ReadAdapterInterface {
 public:
  Memory(const void *bytes, uint64_t length)
      : bytes_(static_cast<const char *>(bytes)), length_(length) {}

  size_t size() const override { return length_; }

  size_t read(uint64_t pos, void *buf, size_t n, const char *what) const override {
    (void)what;
    if (pos >= length_) {
      return 0;
    }
    const size_t count = std::min<size_t>(n, length_ - pos);
    std::memcpy(buf, bytes_ + pos, count);
    return count;
  }

 private:
  const char *bytes_;
  uint64_t length_;
};

/// Which inputs `forward` may write to: an in-place operation on one would change the caller's
/// memory, so these are copied. All of them, where libtorch cannot tell.
std::vector<bool> written_inputs(const torch::jit::Module &module) {
  const auto &schema_arguments = module.get_method("forward").function().getSchema().arguments();
  const size_t count = schema_arguments.empty() ? 0 : schema_arguments.size() - 1;
  try {
    auto graph = module.get_method("forward").graph()->copy();
    torch::jit::Inline(*graph);
    const torch::jit::AliasDb aliases(graph, /*isFrozen=*/false, /*descendFunctionCalls=*/true);
    std::vector<bool> written;
    for (size_t position = 1; position < graph->inputs().size(); ++position) {
      written.push_back(aliases.hasWriters(graph->inputs()[position]));
    }
    written.resize(count, true);
    return written;
  } catch (const std::exception &) {
    return std::vector<bool>(count, true);
  }
}

std::string joined(const std::string &prefix, const std::string &part) {
  return prefix.empty() ? part : prefix + "_" + part;
}

/// What `forward` returned as a list of tensors. Items are named by their positions, the entries of
/// a dict by their keys; what lies deeper has the names on the way to it before its own.
void flatten(c10::IValue value, const std::string &name, std::vector<Output> &outputs) {
  if (value.isTensor()) {
    outputs.push_back({name, std::move(value).toTensor()});
  } else if (value.isTuple()) {
    const auto tuple = std::move(value).toTuple();
    const auto &schema = tuple->type()->schema();
    const auto &elements = tuple->elements();
    for (size_t position = 0; position < elements.size(); ++position) {
      const bool is_named = schema != nullptr && position < schema->arguments().size();
      const std::string part =
          is_named ? schema->arguments()[position].name() : std::to_string(position);
      flatten(elements[position], joined(name, part), outputs);
    }
  } else if (value.isList()) {
    size_t position = 0;
    for (const c10::IValue &element : value.toListRef()) {
      flatten(element, joined(name, std::to_string(position++)), outputs);
    }
  } else if (value.isGenericDict()) {
    for (const auto &entry : value.toGenericDict()) {
      const c10::IValue &key = entry.key();
      TORCH_CHECK(key.isString() || key.isInt(), "a dict that forward returns has keys of type ",
                  key.tagKind(), "; only texts and numbers can be names of outputs");
      const std::string part = key.isString() ? key.toStringRef() : std::to_string(key.toInt());
      flatten(entry.value(), joined(name, part), outputs);
    }
  } else if (value.isBool()) {
    outputs.push_back({name, at::scalar_tensor(value.toBool(), at::kBool)});
  } else if (value.isInt()) {
    outputs.push_back({name, at::scalar_tensor(value.toInt(), at::kLong)});
  } else if (value.isDouble()) {
    outputs.push_back({name, at::scalar_tensor(value.toDouble(), at::kDouble)});
  } else {
    TORCH_CHECK(false, "output ", name, " of forward is ", value.tagKind(), ", not a tensor");
  }
}

bool is_keyed(const c10::IValue &value) {
  return value.isGenericDict() ||
         (value.isTuple() && value.toTupleRef().type()->schema() != nullptr);
}

/// The tensor with memory that is its own: not an input's, which is the caller's, and not one that
/// the module or another output has as well and might change.
at::Tensor own(at::Tensor tensor) {
  TORCH_CHECK(tensor.layout() == at::kStrided, "an output of forward is a sparse tensor");
  at::Tensor dense = tensor.to(at::kCPU).resolve_conj().resolve_neg().contiguous();
  // One count is that of `tensor` or, where it was contiguous, those of both.
  const bool same = dense.unsafeGetTensorImpl() == tensor.unsafeGetTensorImpl();
  tensor.reset();
  const bool shared = dense.use_count() > 1 || dense.storage().use_count() > 1;
  return same && shared ? dense.clone(at::MemoryFormat::Contiguous) : dense;
}

void set_threads(int32_t threads) {
  // A call changes the number of this thread and throws away its caches of oneDNN.
  thread_local int32_t current = 0;
  if (threads > 0 && threads != current) {
    at::set_num_threads(threads);
    current = threads;
  }
}

}  // namespace

struct dunlin_torch_module {
  torch::jit::Module module;
  std::vector<bool> written_inputs;
  uint32_t needed = 0;
  uint32_t most = 0;
};

struct dunlin_torch_outputs {
  std::vector<Output> outputs;
  bool positional = true;
};

struct dunlin_torch_memory {
  at::Tensor tensor;
};

uint32_t dunlin_torch_abi(void) { return DUNLIN_TORCH_ABI; }

const char *dunlin_torch_version(void) { return TORCH_VERSION; }

void dunlin_torch_free_text(char *text) { std::free(text); }

char *dunlin_torch_load(const char *path, const void *bytes, uint64_t length,
                        int32_t optimize_for_inference, dunlin_torch_module **module) {
  return guarded([&] {
    const c10::InferenceMode inference;
    torch::jit::Module loaded =
        path != nullptr
            ? torch::jit::load(std::string(path), c10::kCPU)
            : torch::jit::load(
                  std::shared_ptr<caffe2::serialize::ReadAdapterInterface>(
                      std::make_shared<Memory>(bytes, length)),
                  c10::kCPU);
    loaded.eval();
    TORCH_CHECK(loaded.find_method("forward").has_value(), "the module has no forward");
    const auto &arguments = loaded.get_method("forward").function().getSchema().arguments();
    auto result = std::make_unique<dunlin_torch_module>();
    for (size_t position = 1; position < arguments.size(); ++position) {
      result->most += 1;
      result->needed += arguments[position].default_value().has_value() ? 0 : 1;
    }
    if (optimize_for_inference != 0) {
      loaded = torch::jit::optimize_for_inference(loaded);
    } else {
      try {
        loaded = torch::jit::freeze(loaded);
      } catch (const std::exception &) {
        // Freezing is a matter of speed, and some modules cannot be: it is served as it is.
      }
    }
    result->written_inputs = written_inputs(loaded);
    result->module = std::move(loaded);
    *module = result.release();
  });
}

void dunlin_torch_unload(dunlin_torch_module *module) { delete module; }

void dunlin_torch_arguments(const dunlin_torch_module *module, uint32_t *needed, uint32_t *most) {
  *needed = module->needed;
  *most = module->most;
}

char *dunlin_torch_run(const dunlin_torch_module *module, const dunlin_torch_tensor *inputs,
                       uint32_t count, int32_t threads, dunlin_torch_outputs **outputs) {
  return guarded([&] {
    const c10::InferenceMode inference;
    set_threads(threads);
    std::vector<at::Tensor> tensors;
    tensors.reserve(count);
    for (uint32_t position = 0; position < count; ++position) {
      const dunlin_torch_tensor &input = inputs[position];
      const auto type = scalar_type(input.dtype);
      TORCH_CHECK(type.has_value(), "input ", position, " has an unknown datatype");
      const at::IntArrayRef shape(input.shape, input.rank);
      at::Tensor tensor =
          at::from_blob(const_cast<void *>(input.data), shape, at::TensorOptions(*type));
      const bool written = position >= module->written_inputs.size() ||
                           module->written_inputs[position];
      tensors.push_back(written ? tensor.clone() : tensor);
    }
    auto result = std::make_unique<dunlin_torch_outputs>();
    {
      // Not `Module::forward`, which is no const function though it changes nothing.
      c10::IValue value = module->module.get_method("forward")(
          std::vector<c10::IValue>(tensors.begin(), tensors.end()));
      result->positional = !is_keyed(value);
      const bool single = value.isTensor() || value.isInt() || value.isDouble() || value.isBool();
      flatten(std::move(value), single || result->positional ? "output" : "", result->outputs);
    }
    // The inputs are alive still, so an output in their memory is seen to be shared.
    for (Output &output : result->outputs) {
      output.tensor = own(std::move(output.tensor));
      TORCH_CHECK(dtype_of(output.tensor.scalar_type()).has_value(), "output ", output.name,
                  " of forward is ", output.tensor.scalar_type(),
                  ", for which the Open Inference Protocol has no name");
    }
    *outputs = result.release();
  });
}

uint32_t dunlin_torch_output_count(const dunlin_torch_outputs *outputs) {
  return static_cast<uint32_t>(outputs->outputs.size());
}

int32_t dunlin_torch_output_positional(const dunlin_torch_outputs *outputs) {
  return outputs->positional ? 1 : 0;
}

const char *dunlin_torch_output_name(const dunlin_torch_outputs *outputs, uint32_t position) {
  return position < outputs->outputs.size() ? outputs->outputs[position].name.c_str() : nullptr;
}

dunlin_torch_memory *dunlin_torch_output_take(dunlin_torch_outputs *outputs, uint32_t position,
                                              dunlin_torch_tensor *tensor) {
  if (position >= outputs->outputs.size() || !outputs->outputs[position].tensor.defined()) {
    return nullptr;
  }
  auto *memory = new (std::nothrow) dunlin_torch_memory;
  if (memory == nullptr) {
    return nullptr;
  }
  memory->tensor = std::move(outputs->outputs[position].tensor);
  tensor->dtype = dtype_of(memory->tensor.scalar_type()).value_or(-1);
  tensor->rank = static_cast<uint32_t>(memory->tensor.dim());
  tensor->shape = memory->tensor.sizes().data();
  tensor->data = memory->tensor.const_data_ptr();
  return memory;
}

void dunlin_torch_release(dunlin_torch_memory *memory) { delete memory; }

void dunlin_torch_outputs_free(dunlin_torch_outputs *outputs) { delete outputs; }
