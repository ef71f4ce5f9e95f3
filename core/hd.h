#pragma once
/// Marks for code that runs on host and device alike; plain C++ when nvcc is not the compiler.
#if defined(__CUDACC__)
#define FLARE_HD __host__ __device__ __forceinline__
#else
#define FLARE_HD inline
#endif
