#pragma once

// What fibers must tell the sanitizers of addresses and of threads; nothing without them. To the
// latter each fiber is a thread, which is ordered after others only by barriers and warps: a data
// race is reported whatever order was drawn. Who includes this isn't itself watched for races then,
// as fibers write here what the scheduler reads; so the compiler doesn't tell of that sanitizer.

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(CUDA_SHIM_SANITIZE_THREAD)
#include <sanitizer/tsan_interface.h>
#endif

namespace cuda_shim::sanitizers {

struct Fiber {
  void* state = nullptr;
};

struct Main {
  void* state = nullptr;
  const void* stack = nullptr;
  std::size_t bytes = 0;
};

#if defined(__SANITIZE_ADDRESS__)

inline void start(Fiber&) {}
inline void enter_fiber(Fiber&, Main& main, const void* stack, std::size_t bytes) {
  __sanitizer_start_switch_fiber(&main.state, stack, bytes);
}
inline void first_in_fiber(Main& main) {
  __sanitizer_finish_switch_fiber(nullptr, &main.stack, &main.bytes);
}
inline void leave_fiber(Fiber& fiber, Main& main, bool for_good) {
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.state, main.stack, main.bytes);
}
inline void back_in_fiber(Fiber& fiber) {
  __sanitizer_finish_switch_fiber(fiber.state, nullptr, nullptr);
}
inline void back_in_main(Main& main) {
  __sanitizer_finish_switch_fiber(main.state, nullptr, nullptr);
}
inline void end(Fiber&, Main&) {}
inline void release(void*) {}
inline void acquire(void*) {}
// Frames of fibers that never ended left marks.
inline void forget(const void* memory, std::size_t bytes) {
  __asan_unpoison_memory_region(memory, bytes);
}
inline void forbid(const void* memory, std::size_t bytes) {
  __asan_poison_memory_region(memory, bytes);
}

#elif defined(CUDA_SHIM_SANITIZE_THREAD)

inline void start(Fiber& fiber) { fiber.state = __tsan_create_fiber(0); }
inline void enter_fiber(Fiber& fiber, Main& main, const void*, std::size_t) {
  main.state = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber.state, __tsan_switch_to_fiber_no_sync);
}
inline void first_in_fiber(Main&) {}
inline void leave_fiber(Fiber&, Main& main, bool) {
  __tsan_release(&main);
  __tsan_switch_to_fiber(main.state, __tsan_switch_to_fiber_no_sync);
}
inline void back_in_fiber(Fiber&) {}
inline void back_in_main(Main&) {}
inline void end(Fiber& fiber, Main& main) {
  __tsan_acquire(&main);
  __tsan_destroy_fiber(fiber.state);
}
inline void release(void* meeting) { __tsan_release(meeting); }
inline void acquire(void* meeting) { __tsan_acquire(meeting); }
inline void forget(const void*, std::size_t) {}
inline void forbid(const void*, std::size_t) {}

#else

inline void start(Fiber&) {}
inline void enter_fiber(Fiber&, Main&, const void*, std::size_t) {}
inline void first_in_fiber(Main&) {}
inline void leave_fiber(Fiber&, Main&, bool) {}
inline void back_in_fiber(Fiber&) {}
inline void back_in_main(Main&) {}
inline void end(Fiber&, Main&) {}
inline void release(void*) {}
inline void acquire(void*) {}
inline void forget(const void*, std::size_t) {}
inline void forbid(const void*, std::size_t) {}

#endif

}  // namespace cuda_shim::sanitizers
