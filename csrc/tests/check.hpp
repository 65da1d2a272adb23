#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

// Ends the program, with what failed and in which case, unless `condition` holds. One failure is
// enough: the cases are small, and a sweep that goes on would bury it.
#define CHECK(condition) fastrebasin::tests::check(condition, #condition, __FILE__, __LINE__)

namespace fastrebasin::tests {

// The case at hand: where a sweep over matrices is.
inline thread_local std::string current_case;

inline void check(bool holds, const char* condition, const char* file, int line) {
  if (holds) return;
  std::fprintf(stderr, "%s:%d: failed: %s\n  case: %s\n", file, line, condition,
               current_case.c_str());
  std::exit(1);
}

}  // namespace fastrebasin::tests
