/* Dunlin's library over libtorch: a C interface that is opened at run time, so that the node starts
 * without libtorch and is built without it.
 *
 * Functions that can fail give NULL, or the text of the failure: give it back to
 * dunlin_torch_free_text. No C++ exception leaves the library. Everything but a load, an unload and
 * a release may be called for one module from several threads at once.
 */
#ifndef DUNLIN_TORCH_H
#define DUNLIN_TORCH_H

#include <stdint.h>

#define DUNLIN_TORCH_API __attribute__((visibility("default")))

/* Changes with everything below: who opens the library compares it first. */
#define DUNLIN_TORCH_ABI 1

#ifdef __cplusplus
extern "C" {
#endif

/* The elements of a tensor. */
enum dunlin_torch_dtype {
  DUNLIN_TORCH_BOOL = 0,
  DUNLIN_TORCH_UINT8 = 1,
  DUNLIN_TORCH_UINT16 = 2,
  DUNLIN_TORCH_UINT32 = 3,
  DUNLIN_TORCH_UINT64 = 4,
  DUNLIN_TORCH_INT8 = 5,
  DUNLIN_TORCH_INT16 = 6,
  DUNLIN_TORCH_INT32 = 7,
  DUNLIN_TORCH_INT64 = 8,
  DUNLIN_TORCH_FP16 = 9,
  DUNLIN_TORCH_BF16 = 10,
  DUNLIN_TORCH_FP32 = 11,
  DUNLIN_TORCH_FP64 = 12
};

/* A contiguous row-major tensor on the CPU. */
typedef struct dunlin_torch_tensor {
  int32_t dtype;
  uint32_t rank;
  const int64_t *shape;
  const void *data;
} dunlin_torch_tensor;

typedef struct dunlin_torch_module dunlin_torch_module;
typedef struct dunlin_torch_outputs dunlin_torch_outputs;
typedef struct dunlin_torch_memory dunlin_torch_memory;

DUNLIN_TORCH_API uint32_t dunlin_torch_abi(void);

/* libtorch's own version: "2.15.0". */
DUNLIN_TORCH_API const char *dunlin_torch_version(void);

DUNLIN_TORCH_API void dunlin_torch_free_text(char *text);

/* Loads a TorchScript archive: the file at `path`, or, where that is NULL, `length` bytes, which are
 * not read any more afterwards. The module is frozen, and optimised for inference if asked. */
DUNLIN_TORCH_API char *dunlin_torch_load(const char *path, const void *bytes, uint64_t length,
                                         int32_t optimize_for_inference,
                                         dunlin_torch_module **module);

DUNLIN_TORCH_API void dunlin_torch_unload(dunlin_torch_module *module);

/* How many arguments `forward` needs, and how many it takes at most. */
DUNLIN_TORCH_API void dunlin_torch_arguments(const dunlin_torch_module *module, uint32_t *needed,
                                             uint32_t *most);

/* Runs `forward` on this thread. Large operations use up to `threads` threads; libtorch keeps that
 * number for each calling thread. The inputs are read until the call returns and never written. */
DUNLIN_TORCH_API char *dunlin_torch_run(const dunlin_torch_module *module,
                                        const dunlin_torch_tensor *inputs, uint32_t count,
                                        int32_t threads, dunlin_torch_outputs **outputs);

DUNLIN_TORCH_API uint32_t dunlin_torch_output_count(const dunlin_torch_outputs *outputs);

/* 1 where the names are made from positions: a single tensor, a tuple or a list. 0 for the keys of a
 * dict or the fields of a named tuple. */
DUNLIN_TORCH_API int32_t dunlin_torch_output_positional(const dunlin_torch_outputs *outputs);

/* Valid as long as `outputs`. */
DUNLIN_TORCH_API const char *dunlin_torch_output_name(const dunlin_torch_outputs *outputs,
                                                      uint32_t position);

/* Describes an output and takes its memory over: shape and data stay until the memory is released,
 * whatever becomes of the outputs and the module. NULL if there is no such output. */
DUNLIN_TORCH_API dunlin_torch_memory *dunlin_torch_output_take(dunlin_torch_outputs *outputs,
                                                               uint32_t position,
                                                               dunlin_torch_tensor *tensor);

DUNLIN_TORCH_API void dunlin_torch_release(dunlin_torch_memory *memory);

DUNLIN_TORCH_API void dunlin_torch_outputs_free(dunlin_torch_outputs *outputs);

#ifdef __cplusplus
}
#endif

#endif
