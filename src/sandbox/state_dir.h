// The state folder of a container, <root>/<id>: its record, a copy of its config.json, and for the first container of a
// pod the control socket.
//
// Commands that change a container hold the folder's lock, so that two of them never meet; `state` and `list` need none
// because the record is replaced atomically. A folder that belongs to somebody else, or that others can write, is
// refused.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "linux/file.h"
#include "oci/state.h"
#include "sandbox/record.pb.h"

namespace casemate::sandbox {

using v1::Record;

class StateDir {
  public:
    // A new folder, locked. Fails if the id is taken.
    static Result<StateDir> create(const std::string& root, const std::string& id);
    enum class Lock { kNone, kExclusive };
    // ENOENT with runc's words, "container does not exist".
    static Result<StateDir> open(const std::string& root, const std::string& id, Lock lock);

    const std::string& path() const { return path_; }
    std::string file(const char* name) const { return path_ + "/" + name; }
    std::string control_socket() const { return file("control.sock"); }

    Result<Record> load() const;
    Result<void> save(const Record& record) const;
    Result<std::string> load_config() const;
    Result<void> save_config(const std::string& json) const;

    void unlock() { lock_.reset(); }
    // Removes the folder and all in it.
    Result<void> remove();

  private:
    StateDir(std::string path) : path_(std::move(path)) {}
    std::string path_;
    std::optional<linux::FileLock> lock_;
};

// Ids of all containers under `root`, sorted.
std::vector<std::string> list_containers(const std::string& root);

// The status as it really is: a container whose processes are gone is stopped whatever its record says.
oci::ContainerStatus real_status(const Record& record);
bool is_alive(const v1::HostProcess& process);
v1::HostProcess this_process();

oci::State state_of(const Record& record);

// "/run/casemate", or $XDG_RUNTIME_DIR/casemate for an ordinary user.
std::string default_state_root();

}  // namespace casemate::sandbox
