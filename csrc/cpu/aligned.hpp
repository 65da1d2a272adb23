#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace fastrebasin::cpu {

// Memory that starts a cache line: the widest vector loads and stores would touch two lines each
// otherwise. By hand, as allocators are slow at it beside what a small problem takes.
template <typename T>
struct LineAllocator {
  using value_type = T;

  LineAllocator() = default;
  template <typename U>
  LineAllocator(const LineAllocator<U>&) {}

  T* allocate(std::size_t count) {
    auto* const start = static_cast<unsigned char*>(::operator new(count * sizeof(T) + line));
    const std::size_t skipped = line - reinterpret_cast<std::uintptr_t>(start) % line;
    start[skipped - 1] = static_cast<unsigned char>(skipped);
    return reinterpret_cast<T*>(start + skipped);
  }
  void deallocate(T* data, std::size_t) {
    auto* const first = reinterpret_cast<unsigned char*>(data);
    ::operator delete(first - first[-1]);
  }

  friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
  friend bool operator!=(const LineAllocator&, const LineAllocator&) { return false; }

 private:
  static constexpr std::size_t line = 64;
};

template <typename T>
using LineVector = std::vector<T, LineAllocator<T>>;

}  // namespace fastrebasin::cpu
