// A bad network between two links: takes frames from each and passes them to the other, but loses, doubles, changes and
// delays some (so that they arrive in another order), stops altogether now and then, and adds frames that nobody sent.
// usage: relay LINK LINK SEED     says what it did when it gets SIGTERM
//        relay plain LINK         at the links' other ends, first: frames as on a wire, none left to the hardware
//
// The emulator that the kernel has for this (netem) is not in every kernel, and does not add garbage.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <queue>
#include <random>
#include <string>
#include <vector>

namespace {

using Frame = std::vector<uint8_t>;
constexpr double kLost = 0.004, kDoubled = 0.004, kChanged = 0.002, kDelayed = 0.03, kAdded = 0.02;
constexpr int64_t kMillisecond = 1'000'000;

struct Late {
    int64_t at;
    uint64_t order;
    int to;
    Frame frame;
    bool operator<(const Late& other) const { return at != other.at ? at > other.at : order > other.order; }
};

volatile sig_atomic_t ended = 0;

int64_t now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1'000 * kMillisecond + time.tv_nsec;
}

[[noreturn]] void die(const std::string& what) {
    perror(("relay: " + what).c_str());
    exit(1);
}

int open_link(const char* name) {
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0) die("socket");
    int on = 1, size = 16 << 20;
    setsockopt(fd, SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = static_cast<int>(if_nametoindex(name));
    if (bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)) != 0) die(std::string("bind to ") + name);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

// No segments larger than the link's frames, no checksums left to hardware.
int make_plain(const char* link) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (uint32_t command : {ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO, ETHTOOL_STXCSUM}) {
        ethtool_value value{command, 0};
        ifreq request{};
        strncpy(request.ifr_name, link, IFNAMSIZ - 1);
        request.ifr_data = reinterpret_cast<char*>(&value);
        if (ioctl(fd, SIOCETHTOOL, &request) != 0) die(std::string("offloads of ") + link);
    }
    return 0;
}

class Relay {
  public:
    Relay(const char* first, const char* second, unsigned seed) : chance_(seed) {
        links_[0] = open_link(first);
        links_[1] = open_link(second);
    }

    void run() {
        int64_t stop_at = now() + 5'000 * kMillisecond;
        while (!ended) {
            int64_t time = now();
            if (time >= stop_at) {
                usleep(300'000 + chance_() % 900'000);  // nothing gets through
                stalls++;
                stop_at = now() + (4'000 + static_cast<int64_t>(chance_() % 8'000)) * kMillisecond;
            }
            while (!late_.empty() && late_.top().at <= time) {
                send_now(late_.top().to, late_.top().frame);
                late_.pop();
            }
            int wait = late_.empty() ? 200 : static_cast<int>((late_.top().at - time) / kMillisecond + 1);
            pollfd polled[2] = {{links_[0], POLLIN, 0}, {links_[1], POLLIN, 0}};
            if (poll(polled, 2, std::min(wait, 200)) < 0 && errno != EINTR) die("poll");
            for (int from = 0; from < 2; from++)
                if (polled[from].revents != 0) take(from);
        }
        printf("relay: %lu passed, %lu lost, %lu doubled, %lu changed, %lu late, %lu added, %lu stalls\n", passed, lost,
               doubled, changed, delayed, added, stalls);
    }

    unsigned long passed = 0, lost = 0, doubled = 0, changed = 0, delayed = 0, added = 0, stalls = 0;

  private:
    bool happens(double probability) { return std::uniform_real_distribution<>(0, 1)(chance_) < probability; }

    void take(int from) {
        uint8_t buffer[70000];
        for (int i = 0; i < 64; i++) {
            ssize_t got = recv(links_[from], buffer, sizeof(buffer), 0);
            if (got <= 0) return;
            treat(1 - from, Frame(buffer, buffer + got));
        }
    }

    void treat(int to, Frame frame) {
        // ARP has no checksum: what is changed in it would be believed.
        bool arp = frame.size() < 14 || (frame[12] == 8 && frame[13] == 6);
        if (happens(kAdded)) {
            send_now(to, invented(frame));
            added++;
        }
        if (happens(kLost)) {
            lost++;
            return;
        }
        if (!arp && happens(kChanged)) {
            frame[14 + chance_() % (frame.size() - 14)] ^= static_cast<uint8_t>(1u << chance_() % 8);
            changed++;
        }
        if (happens(kDoubled)) {
            later(to, frame);
            doubled++;
        }
        if (happens(kDelayed)) {
            later(to, std::move(frame));
            delayed++;
            return;
        }
        send_now(to, frame);
        passed++;
    }

    void later(int to, Frame frame) {
        late_.push({now() + static_cast<int64_t>(chance_() % 8) * kMillisecond, order_++, to, std::move(frame)});
    }
    void send_now(int to, const Frame& frame) { (void)!send(links_[to], frame.data(), frame.size(), 0); }

    // A frame that nobody sent, to whom `like` goes: noise, or a TCP segment of a stranger with anything in it.
    Frame invented(const Frame& like) {
        Frame frame(14 + chance_() % 1400);
        for (uint8_t& byte : frame) byte = static_cast<uint8_t>(chance_());
        if (like.size() < 34) return frame;
        std::copy_n(like.begin(), 14, frame.begin());
        bool ip4 = like[12] == 8 && like[13] == 0;
        if (!ip4 || frame.size() < 60 || happens(0.3)) {
            if (like[12] == 8 && like[13] == 6) frame[14] = 0xff;  // no ARP that could be believed
            return frame;
        }
        uint8_t* ip = &frame[14];
        size_t size = frame.size() - 14;
        std::copy_n(&like[14], 20, ip);
        ip[0] = 0x45;
        ip[2] = static_cast<uint8_t>(size >> 8), ip[3] = static_cast<uint8_t>(size);
        ip[6] = ip[7] = 0;
        ip[9] = IPPROTO_TCP;
        ip[14] = static_cast<uint8_t>(chance_());  // some other host of the net
        ip[15] = static_cast<uint8_t>(chance_());
        ip[10] = ip[11] = 0;
        put_checksum(&ip[10], sum(0, ip, 20));
        uint8_t* tcp = ip + 20;
        size_t length = size - 20;
        tcp[12] = static_cast<uint8_t>((5 + chance_() % 11) << 4);
        if (happens(0.5)) tcp[13] = 2;  // SYN
        if (happens(0.5)) tcp[2] = like[36 % like.size()], tcp[3] = like[37 % like.size()];
        tcp[16] = tcp[17] = 0;
        put_checksum(&tcp[16], sum(sum(IPPROTO_TCP + length, &ip[12], 8), tcp, length));
        return frame;
    }
    static uint64_t sum(uint64_t start, const uint8_t* data, size_t size) {
        for (size_t i = 0; i < size; i++) start += i % 2 == 0 ? static_cast<uint64_t>(data[i]) << 8 : data[i];
        return start;
    }
    static void put_checksum(uint8_t* at, uint64_t sum) {
        while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
        at[0] = static_cast<uint8_t>(~sum >> 8), at[1] = static_cast<uint8_t>(~sum);
    }

    int links_[2];
    std::mt19937 chance_;
    std::priority_queue<Late> late_;
    uint64_t order_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc == 3 && !strcmp(argv[1], "plain")) return make_plain(argv[2]);
    if (argc != 4) {
        fprintf(stderr, "usage: relay LINK LINK SEED\n       relay plain LINK\n");
        return 2;
    }
    struct sigaction action {};
    action.sa_handler = [](int) { ended = 1; };
    sigaction(SIGTERM, &action, nullptr);
    sigaction(SIGINT, &action, nullptr);
    Relay relay(argv[1], argv[2], static_cast<unsigned>(atoi(argv[3])));
    puts("relay: ready");
    fflush(stdout);
    relay.run();
}
