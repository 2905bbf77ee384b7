// The vDSO of applications: code that the loader maps into every program and names in its auxiliary vector, so that the
// C library reads clocks and the current CPU without a system call. One page for the whole pod, read-only to
// applications; the sentry fills in its parameters.
#pragma once

#include <memory>

#include "base/ref.h"
#include "sentry/mm/shared_memory.h"
#include "sentry/platform/platform.h"

namespace casemate::sentry {

class Vdso {
  public:
    // Null where the platform offers no clocks, or there is no memory for it: programs then make system calls.
    static std::unique_ptr<Vdso> create(const HostClocks& clocks, MemoryFile& memory, unsigned cpus);

    // What to map, read-only and executable.
    const Ref<SharedMemory>& image() const { return image_; }
    uint64_t size() const { return image_->mappable_size(); }

    // From now on every program asks the sentry which CPU it runs on: some thread's affinity says more than the host's
    // placement.
    void stop_telling_cpu();

  private:
    struct Parameters;
    Vdso(Ref<SharedMemory> image, Parameters* parameters) : image_(std::move(image)), parameters_(parameters) {}

    Ref<SharedMemory> image_;
    Parameters* parameters_;  // in the sentry's map of the image
};

}  // namespace casemate::sentry
