// Stream tokens (guest.proto): how descriptors reach the guest kernel beside requests.
//
// For the sentry a second, SOCK_SEQPACKET socketpair carries them: one message per descriptor, the token as a
// little-endian u64, the descriptor in SCM_RIGHTS. Sent before the request that names it, so it is there when the
// request is. A microvm's engine and agent implement the two interfaces over vsock ports instead.
//
// The receiver trusts nothing: wrong lengths, missing or several descriptors and unknown tokens are dropped, and
// descriptors that no request names cannot pile up beyond a bound.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/guarded.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::guest_api {

using StreamToken = uint64_t;  // 0: none
constexpr size_t kMaxTokensPerRequest = 64;

// The host's side.
class StreamSender {
  public:
    virtual ~StreamSender() = default;
    // Offers the guest a duplicate of `fd` (borrowed) and returns the token for it, used once. Thread-safe.
    virtual Result<StreamToken> send(int fd) = 0;
};

// The guest's side.
class StreamSource {
  public:
    virtual ~StreamSource() = default;
    // The stream behind a token, which is used up by that. EINVAL: unknown. Thread-safe.
    virtual SysResult<UniqueFd> open(StreamToken token) = 0;
};

class DescriptorSender : public StreamSender {
  public:
    explicit DescriptorSender(UniqueFd channel) : channel_(std::move(channel)) {}
    // Waits at most five seconds for a guest that does not take its descriptors.
    Result<StreamToken> send(int fd) override;

  private:
    UniqueFd channel_;
    std::atomic<StreamToken> next_{1};
};

class DescriptorReceiver : public StreamSource {
  public:
    explicit DescriptorReceiver(UniqueFd channel, size_t limit = 4 * kMaxTokensPerRequest)
        : channel_(std::move(channel)), limit_(limit) {}
    SysResult<UniqueFd> open(StreamToken token) override;
    size_t waiting() const { return table_.lock()->size(); }

  private:
    // Guarded by table_'s lock: takes everything that is in the channel.
    void drain(std::map<StreamToken, UniqueFd>& table);

    UniqueFd channel_;
    const size_t limit_;
    Guarded<std::map<StreamToken, UniqueFd>> table_;
};

// The pair of both ends, for whoever spawns a guest kernel.
struct DescriptorChannel {
    UniqueFd host;
    UniqueFd guest;
    static Result<DescriptorChannel> create();
};

// The streams one request named, opened before its handler runs. What the handler does not take is closed.
class RequestStreams {
  public:
    RequestStreams() = default;
    // EINVAL: a token is unknown or twice in the list; E2BIG: more than kMaxTokensPerRequest. Zeros are skipped. All
    // tokens are used up in any case.
    static SysResult<RequestStreams> open(StreamSource& source, std::span<const StreamToken> tokens);
    // Empty for token 0, and the second time.
    UniqueFd take(StreamToken token);

  private:
    std::vector<std::pair<StreamToken, UniqueFd>> streams_;
};

}  // namespace casemate::guest_api
