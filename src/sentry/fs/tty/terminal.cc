#include "sentry/fs/tty/terminal.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {
namespace {

constexpr size_t kInputLimit = 4096;
constexpr size_t kOutputLimit = 16384;

unsigned char control_of(char c) { return static_cast<unsigned char>(c & 0x1f); }

}  // namespace

KernelTermios default_termios() {
    KernelTermios t;
    t.input = ICRNL | IXON;
    t.output = OPOST | ONLCR;
    t.control = B38400 | CS8 | CREAD | HUPCL;
    t.local = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN;
    t.characters[VINTR] = control_of('C');
    t.characters[VQUIT] = control_of('\\');
    t.characters[VERASE] = 0x7f;
    t.characters[VKILL] = control_of('U');
    t.characters[VEOF] = control_of('D');
    t.characters[VMIN] = 1;
    t.characters[VSTART] = control_of('Q');
    t.characters[VSTOP] = control_of('S');
    t.characters[VSUSP] = control_of('Z');
    t.characters[VREPRINT] = control_of('R');
    t.characters[VDISCARD] = control_of('O');
    t.characters[VWERASE] = control_of('W');
    t.characters[VLNEXT] = control_of('V');
    return t;
}

Terminal::Terminal(Kernel& k, uint32_t n) : kernel(k), number(n), termios_(default_termios()) {}

uint64_t Terminal::device_number() const { return makedev(136, number); }

// --- output: slave -> master ---

void Terminal::emit(std::string_view text) { output_ += text; }

void Terminal::output_byte(unsigned char c) {
    if (!(termios_.output & OPOST)) {
        output_ += static_cast<char>(c);
        return;
    }
    switch (c) {
        case '\n':
            if (termios_.output & ONLCR) {
                emit("\r\n");
                column_ = 0;
                return;
            }
            if (termios_.output & ONLRET) column_ = 0;
            break;
        case '\r':
            if ((termios_.output & ONOCR) && column_ == 0) return;
            if (termios_.output & OCRNL) {
                c = '\n';
                if (!(termios_.output & ONLRET)) break;
            }
            column_ = 0;
            break;
        case '\t': {
            uint32_t spaces = 8 - (column_ & 7);
            column_ += spaces;
            if ((termios_.output & TABDLY) == XTABS) {
                output_.append(spaces, ' ');
                return;
            }
            break;
        }
        case '\b':
            if (column_ > 0) column_--;
            break;
        default:
            if (termios_.output & OLCUC) c = static_cast<unsigned char>(toupper(c));
            if (c >= 0x20 && (c & 0xc0) != 0x80) column_++;
    }
    output_ += static_cast<char>(c);
}

Terminal::Outcome Terminal::slave_write(std::span<const std::byte> from) {
    std::unique_lock lock(mutex_);
    if (!master_open_ || hung_up_) return {.hung_up = true};
    Outcome outcome;
    if (stopped_) return {.would_block = true};
    while (outcome.bytes < from.size() && output_.size() + 8 <= kOutputLimit)
        output_byte(static_cast<unsigned char>(from[outcome.bytes++]));
    outcome.would_block = outcome.bytes == 0 && !from.empty();
    lock.unlock();
    if (outcome.bytes > 0) master_waiters.notify(EPOLLIN | EPOLLRDNORM);
    return outcome;
}

Terminal::Outcome Terminal::master_read(std::span<std::byte> into) {
    Outcome outcome;
    {
        std::lock_guard lock(mutex_);
        if (output_.empty()) {
            bool gone = slave_was_open_ && slaves_ == 0;
            return {.would_block = !gone, .hung_up = gone};
        }
        size_t start = 0;
        if (packet_ && !into.empty()) {
            into[0] = std::byte{TIOCPKT_DATA};
            start = 1;
        }
        size_t part = std::min(into.size() - start, output_.size());
        memcpy(into.data() + start, output_.data(), part);
        output_.erase(0, part);
        outcome.bytes = part + start;
    }
    slave_waiters.notify(EPOLLOUT | EPOLLWRNORM);
    return outcome;
}

// --- input: master -> slave ---

void Terminal::echo(unsigned char c) {
    if (!(termios_.local & ECHO) && !(c == '\n' && (termios_.local & ECHONL) && (termios_.local & ICANON))) return;
    if (output_.size() + 8 > kOutputLimit) return;  // as Linux: echo is dropped before anything blocks
    if ((termios_.local & ECHOCTL) && c < 0x20 && c != '\n' && c != '\t' && c != '\r') {
        char text[2] = {'^', static_cast<char>(c ^ 0x40)};
        emit({text, 2});
        column_ += 2;
    } else if ((termios_.local & ECHOCTL) && c == 0x7f) {
        emit("^?");
        column_ += 2;
    } else {
        output_byte(c);
    }
}

// Takes the last character of the line away, all bytes of a UTF-8 one with IUTF8, and shows it.
void Terminal::erase_one() {
    if (editing_.empty()) return;
    bool multi = termios_.input & IUTF8;
    unsigned char c = static_cast<unsigned char>(editing_.back());
    editing_.pop_back();
    while (multi && (c & 0xc0) == 0x80 && !editing_.empty()) {
        c = static_cast<unsigned char>(editing_.back());
        editing_.pop_back();
    }
    if (!(termios_.local & ECHO)) return;
    if (!(termios_.local & ECHOE)) {
        echo(termios_.characters[VERASE]);
        return;
    }
    int width = (termios_.local & ECHOCTL) && (c < 0x20 || c == 0x7f) ? 2 : 1;
    while (width-- > 0) emit("\b \b");
}

void Terminal::canonical_byte(unsigned char c) {
    const uint8_t* key = termios_.characters;
    auto is = [&](int index) { return key[index] != 0 && c == key[index]; };
    if (is(VERASE)) return erase_one();
    if (is(VKILL)) {
        if ((termios_.local & ECHOKE) && (termios_.local & ECHOE)) {
            while (!editing_.empty()) erase_one();
        } else {
            editing_.clear();
            echo(c);
            if (termios_.local & ECHOK) output_byte('\n');
        }
        return;
    }
    if (termios_.local & IEXTEN) {
        if (is(VWERASE)) {
            while (!editing_.empty() && isspace(static_cast<unsigned char>(editing_.back()))) erase_one();
            while (!editing_.empty() && !isspace(static_cast<unsigned char>(editing_.back()))) erase_one();
            return;
        }
        if (is(VLNEXT)) {
            literal_next_ = true;
            if (termios_.local & ECHO) emit("^\b");
            return;
        }
        if (is(VREPRINT) && (termios_.local & ECHO)) {
            echo(c);
            output_byte('\n');
            for (char one : editing_) echo(static_cast<unsigned char>(one));
            return;
        }
    }
    if (is(VEOF)) {
        lines_.push_back(std::move(editing_));
        editing_.clear();
        return;
    }
    if (c == '\n' || is(VEOL) || ((termios_.local & IEXTEN) && is(VEOL2))) {
        echo(c);
        editing_ += static_cast<char>(c);
        lines_.push_back(std::move(editing_));
        editing_.clear();
        return;
    }
    if (pending_input() >= kInputLimit - 1) {
        if (termios_.input & IMAXBEL) emit("\a");
        return;
    }
    echo(c);
    editing_ += static_cast<char>(c);
}

void Terminal::input_byte(unsigned char c) {
    if (termios_.input & ISTRIP) c &= 0x7f;
    if ((termios_.input & IUCLC) && (termios_.local & IEXTEN)) c = static_cast<unsigned char>(tolower(c));
    if (literal_next_) {
        literal_next_ = false;
        echo(c);
        (termios_.local & ICANON ? editing_ : raw_) += static_cast<char>(c);
        return;
    }
    const uint8_t* key = termios_.characters;
    if (termios_.local & ISIG) {
        int signo = 0;
        if (key[VINTR] != 0 && c == key[VINTR])
            signo = SIGINT;
        else if (key[VQUIT] != 0 && c == key[VQUIT])
            signo = SIGQUIT;
        else if (key[VSUSP] != 0 && c == key[VSUSP])
            signo = SIGTSTP;
        if (signo != 0) {
            if (!(termios_.local & NOFLSH)) {
                lines_.clear();
                editing_.clear();
                raw_.clear();
                output_.clear();
            }
            stopped_ = false;
            echo(c);
            signals_ += static_cast<char>(signo);
            return;
        }
    }
    if (termios_.input & IXON) {
        if (c == key[VSTART] && key[VSTART] != 0) {
            stopped_ = false;
            return;
        }
        if (c == key[VSTOP] && key[VSTOP] != 0) {
            stopped_ = true;
            return;
        }
        if (stopped_ && (termios_.input & IXANY)) stopped_ = false;
    }
    if (c == '\r') {
        if (termios_.input & IGNCR) return;
        if (termios_.input & ICRNL) c = '\n';
    } else if (c == '\n' && (termios_.input & INLCR)) {
        c = '\r';
    }
    if (termios_.local & ICANON) return canonical_byte(c);
    if (raw_.size() >= kInputLimit) return;
    echo(c);
    raw_ += static_cast<char>(c);
}

Terminal::Outcome Terminal::master_write(std::span<const std::byte> from) {
    std::unique_lock lock(mutex_);
    Outcome outcome;
    if (hung_up_) return {.hung_up = true};
    // A full raw queue holds the master back; a full line being edited only rings, as Linux does, or the master could
    // never send the newline that ends it.
    while (
        outcome.bytes < from.size() &&
        ((termios_.local & ICANON) ? pending_input() - editing_.size() < kInputLimit * 4 : raw_.size() < kInputLimit))
        input_byte(static_cast<unsigned char>(from[outcome.bytes++]));
    outcome.would_block = outcome.bytes == 0 && !from.empty();
    bool ready = input_ready(), echoed = !output_.empty();
    send_signals(lock);
    if (ready) slave_waiters.notify(EPOLLIN | EPOLLRDNORM);
    slave_waiters.notify(EPOLLOUT | EPOLLWRNORM);
    if (echoed) master_waiters.notify(EPOLLIN | EPOLLRDNORM);
    return outcome;
}

Terminal::Outcome Terminal::slave_read(std::span<std::byte> into) {
    Outcome outcome;
    {
        std::lock_guard lock(mutex_);
        if (hung_up_ || (!master_open_ && !input_ready())) return {.hung_up = true};
        if (!input_ready()) return {.would_block = true};
        if (termios_.local & ICANON) {
            std::string& line = lines_.front();
            outcome.bytes = std::min(into.size(), line.size());
            memcpy(into.data(), line.data(), outcome.bytes);
            line.erase(0, outcome.bytes);
            if (line.empty()) lines_.pop_front();
        } else {
            outcome.bytes = std::min(into.size(), raw_.size());
            memcpy(into.data(), raw_.data(), outcome.bytes);
            raw_.erase(0, outcome.bytes);
        }
    }
    master_waiters.notify(EPOLLOUT | EPOLLWRNORM);
    return outcome;
}

bool Terminal::input_ready() const {
    if (termios_.local & ICANON) return !lines_.empty();
    return !raw_.empty();
}

size_t Terminal::pending_input() const {
    size_t sum = editing_.size() + raw_.size();
    for (const std::string& line : lines_) sum += line.size();
    return sum;
}

// --- state ---

Terminal::ReadRule Terminal::read_rule() {
    std::lock_guard lock(mutex_);
    if (termios_.local & ICANON) return {};
    return {false, termios_.characters[VMIN], termios_.characters[VTIME]};
}

size_t Terminal::slave_bytes_ready() {
    std::lock_guard lock(mutex_);
    if (!(termios_.local & ICANON)) return raw_.size();
    size_t sum = 0;
    for (const std::string& line : lines_) sum += line.size();
    return sum;
}

size_t Terminal::output_bytes() {
    std::lock_guard lock(mutex_);
    return output_.size();
}

uint32_t Terminal::poll_master() {
    std::lock_guard lock(mutex_);
    uint32_t events = 0;
    if (!output_.empty()) events |= EPOLLIN | EPOLLRDNORM;
    if (slave_was_open_ && slaves_ == 0) events |= EPOLLHUP;
    if (pending_input() < kInputLimit) events |= EPOLLOUT | EPOLLWRNORM;
    return events;
}

uint32_t Terminal::poll_slave() {
    std::lock_guard lock(mutex_);
    uint32_t events = 0;
    if (input_ready()) events |= EPOLLIN | EPOLLRDNORM;
    if (!stopped_ && output_.size() + 8 <= kOutputLimit) events |= EPOLLOUT | EPOLLWRNORM;
    if (!master_open_ || hung_up_) events |= EPOLLHUP | EPOLLIN | EPOLLOUT | EPOLLERR;
    return events;
}

KernelTermios Terminal::termios() {
    std::lock_guard lock(mutex_);
    return termios_;
}

void Terminal::set_termios(const KernelTermios& now, bool flush_input) {
    {
        std::lock_guard lock(mutex_);
        bool was_canonical = termios_.local & ICANON, canonical = now.local & ICANON;
        termios_ = now;
        if (was_canonical && !canonical) {
            for (std::string& line : lines_) raw_ += line;
            raw_ += editing_;
            lines_.clear();
            editing_.clear();
        } else if (!was_canonical && canonical) {
            std::string pending = std::move(raw_);
            raw_.clear();
            size_t start = 0;
            for (size_t end; (end = pending.find('\n', start)) != std::string::npos; start = end + 1)
                lines_.push_back(pending.substr(start, end + 1 - start));
            editing_ = pending.substr(start);
        }
        if (flush_input) {
            lines_.clear();
            editing_.clear();
            raw_.clear();
        }
        if (!(now.input & IXON)) stopped_ = false;
    }
    slave_waiters.notify(~0u, ~0u);
    master_waiters.notify(~0u, ~0u);
}

winsize Terminal::window() {
    std::lock_guard lock(mutex_);
    return window_;
}

void Terminal::set_window(const winsize& size) {
    {
        std::lock_guard lock(mutex_);
        if (memcmp(&size, &window_, sizeof(size)) == 0) return;
        window_ = size;
    }
    signal_foreground(SIGWINCH);
}

void Terminal::flush(bool input, bool output) {
    {
        std::lock_guard lock(mutex_);
        if (input) {
            lines_.clear();
            editing_.clear();
            raw_.clear();
        }
        if (output) output_.clear();
    }
    slave_waiters.notify(EPOLLOUT, ~0u);
    master_waiters.notify(EPOLLOUT, ~0u);
}

void Terminal::set_stopped(bool stopped) {
    {
        std::lock_guard lock(mutex_);
        stopped_ = stopped;
    }
    slave_waiters.notify(EPOLLOUT, ~0u);
}

void Terminal::set_packet_mode(bool on) {
    std::lock_guard lock(mutex_);
    packet_ = on;
}
bool Terminal::packet_mode() {
    std::lock_guard lock(mutex_);
    return packet_;
}
void Terminal::set_locked(bool locked) {
    std::lock_guard lock(mutex_);
    locked_ = locked;
}
bool Terminal::locked() {
    std::lock_guard lock(mutex_);
    return locked_;
}
void Terminal::set_exclusive(bool exclusive) {
    std::lock_guard lock(mutex_);
    exclusive_ = exclusive;
}
bool Terminal::exclusive() {
    std::lock_guard lock(mutex_);
    return exclusive_;
}

void Terminal::slave_opened() {
    std::lock_guard lock(mutex_);
    slaves_++;
    slave_was_open_ = true;
}

void Terminal::slave_closed() {
    {
        std::lock_guard lock(mutex_);
        if (--slaves_ > 0) return;
        exclusive_ = false;
    }
    master_waiters.notify(~0u, ~0u);
}

void Terminal::master_closed() {
    {
        std::lock_guard lock(mutex_);
        master_open_ = false;
    }
    slave_waiters.notify(~0u, ~0u);
    Ref<Process> leader;
    {
        std::lock_guard lock(kernel.tasks().mutex);
        if (session != nullptr && session->leader != nullptr) leader = Ref<Process>(session->leader);
    }
    if (!leader) return;
    leader->send_signal(SIGHUP);
    leader->send_signal(SIGCONT);
    signal_foreground(SIGHUP);
    signal_foreground(SIGCONT);
}

void Terminal::session_ended() {
    {
        std::lock_guard lock(mutex_);
        hung_up_ = true;
        // The next session that takes the terminal finds it usable: only those who have it open now are cut off.
        if (slaves_ == 0) hung_up_ = false;
    }
    slave_waiters.notify(~0u, ~0u);
}

void Terminal::signal_foreground(int signo) {
    std::lock_guard lock(kernel.tasks().mutex);
    if (foreground) send_to_group_locked(*foreground, kernel_signal(signo));
}

void Terminal::send_signals(std::unique_lock<std::mutex>& lock) {
    std::string signals = std::move(signals_);
    signals_.clear();
    lock.unlock();
    for (char signo : signals) signal_foreground(signo);
}

}  // namespace casemate::sentry
