// What a kernel must not do and the emulation alone would not notice: accesses to memory that is not the device's, beyond
// the end of an allocation or of a block's shared memory, to other threads' own memory, and races. Compiled into the
// emulation, whose sources the compiler instruments with calls of the functions below (-fsanitize=thread, without its run
// time).
//
// Two accesses of one word (four bytes, or one where less is accessed) race if at least one of them writes, not both are
// atomic, and nothing orders them: launches order everything, __syncthreads the threads of a block, __syncwarp those of a
// warp, and shuffles nothing.
//
// Not seen: an access beyond a __shared__ array of fixed size that ends in another one or in a constant; accesses to
// parts of a word of four bytes beside those to all of it; and where kernels get foreign memory, what is more than
// guard_bytes behind an allocation or before it.
#include <link.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "emulation_block.hpp"

namespace tesseral::cuda::emulation {
namespace {

constexpr uint32_t many = UINT32_MAX;
constexpr std::size_t most_faults = 20, page_words = 1024, recent_pages = 256;

/// Who made accesses of a kind to a word last, as far as they can race with another.
struct Accesses {
  uint32_t launch = 0, block = 0, block_epoch = 0, warp = 0, warp_epoch = 0, thread = 0;

  /// Whether one of them is not ordered before `own`.
  bool race_with(const Accesses& own, bool of_block) const {
    if (launch != own.launch) return false;
    if (block != own.block) return !of_block;
    if (block_epoch != own.block_epoch) return false;
    if (warp != own.warp) return true;
    return warp_epoch == own.warp_epoch && thread != own.thread;
  }
  void add(const Accesses& own, bool of_block) {
    if (launch != own.launch || (of_block && block != own.block)) {
      *this = own;
    } else if (block != own.block) {
      block = many;
    } else if (block_epoch != own.block_epoch) {
      *this = own;
    } else if (warp != own.warp) {
      warp = many;
    } else if (warp_epoch != own.warp_epoch) {
      *this = own;
    } else if (thread != own.thread) {
      thread = many;
    }
  }
};

enum Kind { reads, writes, atomics };
using Word = std::array<Accesses, 3>;
using Page = std::array<Word, page_words>;

struct Faults {
  std::mutex busy;
  std::string lines;
  std::size_t count = 0;
};
Faults& faults() {
  static Faults& all = *new Faults;
  return all;
}

void fault(const char* what, uintptr_t address, const void* caller) {
  Faults& all = faults();
  const std::lock_guard<std::mutex> lock(all.busy);
  if (++all.count > most_faults) return;
  Dl_info place{};
  dladdr(caller, &place);
  char who[128] = "host", line[256];
  if (who_runs() != Who::host) {
    std::snprintf(who, sizeof who, "%s, thread %u of block %u", state().name, threadIdx.x, blockIdx.x);
  }
  std::snprintf(line, sizeof line, "%s: %s, address %#zx, code at %#zx\n", who, what, static_cast<std::size_t>(address),
                static_cast<std::size_t>(static_cast<const char*>(caller) - static_cast<const char*>(place.dli_fbase)));
  all.lines += line;
}

/// The segments of this library, which hold shared memory of fixed places and constants.
std::pair<uintptr_t, uintptr_t> own_segments() {
  std::pair<uintptr_t, uintptr_t> found{0, 0};
  const auto visit = [](dl_phdr_info* object, std::size_t, void* result) {
    uintptr_t begin = UINTPTR_MAX, end = 0;
    for (int n = 0; n < object->dlpi_phnum; ++n) {
      const auto& segment = object->dlpi_phdr[n];
      if (segment.p_type != PT_LOAD) continue;
      begin = std::min<uintptr_t>(begin, object->dlpi_addr + segment.p_vaddr);
      end = std::max<uintptr_t>(end, object->dlpi_addr + segment.p_vaddr + segment.p_memsz);
    }
    const auto own = reinterpret_cast<uintptr_t>(&threadIdx);
    if (own < begin || own >= end) return 0;
    *static_cast<std::pair<uintptr_t, uintptr_t>*>(result) = {begin, end};
    return 1;
  };
  dl_iterate_phdr(visit, &found);
  return found;
}

bool within(uintptr_t address, std::size_t size, const void* begin, std::size_t room) {
  const auto first = reinterpret_cast<uintptr_t>(begin);
  return address >= first && address + size <= first + room;
}

struct Allocation {
  const void* begin = nullptr;
  std::size_t size = 0;
};

/// What CUDA has given and not got back.
class Allocations {
 public:
  void add(void* pointer, std::size_t size) {
    const std::lock_guard<std::mutex> lock(busy_);
    sizes_[pointer] = size;
  }
  void remove(void* pointer) {
    const std::lock_guard<std::mutex> lock(busy_);
    sizes_.erase(pointer);
  }
  std::size_t bytes() {
    const std::lock_guard<std::mutex> lock(busy_);
    std::size_t sum = 0;
    for (const auto& [pointer, size] : sizes_) sum += size;
    return sum;
  }
  /// The last one that begins at or before an address.
  Allocation before(uintptr_t address) {
    const std::lock_guard<std::mutex> lock(busy_);
    const auto found = sizes_.upper_bound(reinterpret_cast<void*>(address));
    if (found == sizes_.begin()) return {};
    return {std::prev(found)->first, std::prev(found)->second};
  }

 private:
  std::mutex busy_;
  std::map<void*, std::size_t> sizes_;
};
Allocations& allocations() {
  static Allocations& all = *new Allocations;
  return all;
}

/// What is known of all words of a size.
class Words {
 public:
  Word& operator[](uintptr_t number) {
    const uintptr_t page = number / page_words;
    Recent& recent = recent_[page % recent_pages];
    if (!recent.page || recent.number != page) {
      auto& found = pages_[page];
      if (!found) found = std::make_unique<Page>();
      recent = {page, found.get()};
    }
    return (*recent.page)[number % page_words];
  }

 private:
  struct Recent {
    uintptr_t number = 0;
    Page* page = nullptr;
  };
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  std::array<Recent, recent_pages> recent_;
};

/// Of this launch and of earlier ones, which do not matter: emptied when faults are taken.
struct Known {
  Words bytes, fours;
};
Known& known() {
  static Known& words = *new Known;
  return words;
}

void note(Kind kind, uintptr_t address, std::size_t size, bool of_block, const void* caller) {
  const Block& block = state();
  const unsigned thread = threadIdx.x;
  const Accesses own{static_cast<uint32_t>(block.launches),
                     blockIdx.x,
                     block.all.generation,
                     thread / lanes_of_warp,
                     block.fences[thread],
                     thread};
  Words& words = size < 4 ? known().bytes : known().fours;
  const uintptr_t word_bytes = size < 4 ? 1 : 4;
  for (uintptr_t a = address / word_bytes; a < (address + size + word_bytes - 1) / word_bytes; ++a) {
    Word& word = words[a];
    for (const Kind other : {reads, writes, atomics}) {
      if (kind == other && kind != writes) continue;
      if (word[other].race_with(own, of_block)) {
        fault(of_block ? "a race in shared memory" : "a race in the device's memory", a * word_bytes, caller);
        word[other] = {};  // said once
      }
    }
    word[kind].add(own, of_block);
  }
}

/// The access of a kernel.
void in_kernel(Kind kind, uintptr_t address, std::size_t size, const void* caller) {
  const Block& block = state();
  if (within(address, size, block.own_stack, stack_bytes)) return;
  static const auto segments = own_segments();
  if (address >= segments.first && address < segments.second) return note(kind, address, size, true, caller);
  const auto shared = reinterpret_cast<uintptr_t>(block.shared.data());
  if (address >= shared && address < shared + block.shared.size()) {
    if (address + size > shared + block.shared_bytes) return fault("beyond the shared memory", address, caller);
    return note(kind, address, size, true, caller);
  }
  if (const Allocation found = allocations().before(address); found.begin) {
    if (within(address, size, found.begin, found.size)) return note(kind, address, size, false, caller);
    if (within(address, 0, found.begin, found.size + guard_bytes)) {
      return fault("beyond the end of an allocation", address, caller);
    }
  }
  if (tesseral_emulation_foreign_memory) return note(kind, address, size, false, caller);
  for (const Fiber& other : block.fibers) {
    if (within(address, size, other.stack.data(), other.stack.size())) {
      return fault("another thread's own memory", address, caller);
    }
  }
  fault("memory that is not the device's", address, caller);
}

/// The access of the host's code.
void on_host(uintptr_t address, std::size_t size, const void* caller) {
  const Allocation found = allocations().before(address);
  if (found.begin && within(address, size, found.begin, found.size)) {
    fault("an access of the host to the device's memory", address, caller);
  }
}

void access(Kind kind, const void* pointer, std::size_t size, const void* caller) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (who_runs() == Who::kernel) return in_kernel(kind, address, size, caller);
  if (who_runs() == Who::host) on_host(address, size, caller);
}

}  // namespace

void note_allocation(void* pointer, std::size_t size) {
  allocations().add(pointer, size);
}
void forget_allocation(void* pointer) {
  allocations().remove(pointer);
}
std::size_t allocated_bytes() {
  return allocations().bytes();
}
void note_vector(const void* pointer, std::size_t size) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address % size != 0) fault("an address that is not aligned", address, __builtin_return_address(0));
}
void note_copy(const void* pointer, std::size_t size) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const Allocation found = allocations().before(address);
  if (found.begin && within(address, size, found.begin, found.size)) return;
  const bool near = found.begin && within(address, 0, found.begin, found.size + guard_bytes);
  if (near || !tesseral_emulation_foreign_memory) {
    fault("a copy or fill beyond an allocation", address, __builtin_return_address(0));
  }
}
void note_atomic(const void* pointer, std::size_t size, const void* caller) {
  access(atomics, pointer, size, caller);
}

}  // namespace tesseral::cuda::emulation

// ---- what the compiler calls ----

#define TESSERAL_ACCESS(name, size, kind)                                                                           \
  void name(void* address) {                                                                                        \
    tesseral::cuda::emulation::access(tesseral::cuda::emulation::kind, address, size, __builtin_return_address(0)); \
  }
#define TESSERAL_ACCESSES(size)                   \
  TESSERAL_ACCESS(__tsan_read##size, size, reads) \
  TESSERAL_ACCESS(__tsan_write##size, size, writes)
#define TESSERAL_UNALIGNED_ACCESSES(size)                   \
  TESSERAL_ACCESS(__tsan_unaligned_read##size, size, reads) \
  TESSERAL_ACCESS(__tsan_unaligned_write##size, size, writes)

extern "C" {
/// What was found since the last call; lines, empty if nothing.
__attribute__((visibility("default"))) const char* tesseral_emulation_faults() {
  using namespace tesseral::cuda::emulation;
  static std::string& taken = *new std::string;
  Faults& all = faults();
  const std::lock_guard<std::mutex> lock(all.busy);
  taken = std::exchange(all.lines, {});
  if (all.count > most_faults) taken += std::to_string(all.count - most_faults) + " more\n";
  all.count = 0;
  known() = {};
  return taken.c_str();
}

TESSERAL_ACCESSES(1)
TESSERAL_ACCESSES(2)
TESSERAL_ACCESSES(4)
TESSERAL_ACCESSES(8)
TESSERAL_ACCESSES(16)
TESSERAL_UNALIGNED_ACCESSES(2)
TESSERAL_UNALIGNED_ACCESSES(4)
TESSERAL_UNALIGNED_ACCESSES(8)
TESSERAL_UNALIGNED_ACCESSES(16)
void __tsan_read_range(void* address, long size) {
  tesseral::cuda::emulation::access(tesseral::cuda::emulation::reads, address, static_cast<std::size_t>(size),
                                    __builtin_return_address(0));
}
void __tsan_write_range(void* address, long size) {
  tesseral::cuda::emulation::access(tesseral::cuda::emulation::writes, address, static_cast<std::size_t>(size),
                                    __builtin_return_address(0));
}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_init() {}
// of reference counts and static variables in the host's code
unsigned __tsan_atomic32_fetch_add(volatile void* target, unsigned value, int) {
  return __atomic_fetch_add(static_cast<volatile unsigned*>(target), value, __ATOMIC_SEQ_CST);
}
unsigned char __tsan_atomic8_load(const volatile void* source, int) {
  return __atomic_load_n(static_cast<const volatile unsigned char*>(source), __ATOMIC_SEQ_CST);
}
}
