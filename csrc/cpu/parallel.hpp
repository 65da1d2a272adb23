#pragma once

#include <cstdint>
#include <functional>

namespace fastrebasin::cpu {

// Returns true when work should stop, from then on. Asked often: it takes no longer than it takes
// to read a clock, most of the time.
using Poll = std::function<bool()>;

// Calls body(index, stopped) once for every index from 0 to count - 1, which are begun in this
// order, on at most `threads` threads, the caller's among them. Returns false when it was stopped
// and so left some indices out.
//
// `interrupted` is called on the caller's thread only, also while that waits for the others; it
// must not throw. Once it returns true no index is begun and every `stopped` returns true: a body
// that takes long asks it and returns early.
//
// A body writes only what no other index touches, so that results don't depend on `threads`. What
// a body throws stops the others, and is thrown here when they are done.
//
// Threads are started for the one call: no state outlives it that a fork could lose, and any number
// of calls may run at once. The caller waits for those that have begun an index, not for others.
bool parallel_for(std::int64_t count, int threads, const Poll& interrupted,
                  const std::function<void(std::int64_t index, const Poll& stopped)>& body);

}  // namespace fastrebasin::cpu
