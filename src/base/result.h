// Result<T> and SysResult<T>: how every function here reports failure. There are no exceptions in our code.
//
// Two tiers (docs/decisions/0001-errors.md):
//   SysResult<T>  value or errno. For the sentry, virtio and other paths where a guest can cause failures all day.
//   Result<T>     value or an Error: errno, place and one sentence that names the thing (which path, which mount),
//                 written once by the layer that knows it.
//
// TRY(expr) yields the value or returns the error from the enclosing function. It is a whole statement, a whole
// initialiser or a whole `return` operand, never an operand inside an aggregate's braces: there g++ 12 and clang 14
// skip the destructors of what was built before it. MUST(expr) yields the value or aborts: for bugs only.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

namespace casemate {

// An errno value with a type of its own, so that it is never mistaken for a count.
struct [[nodiscard]] Errno {
    int value = 0;
    constexpr explicit Errno(int v) : value(v) {}
    friend constexpr bool operator==(Errno, Errno) = default;
};

// The errno of the host syscall that just failed.
inline Errno last_errno() { return Errno(errno); }

#if defined(__cpp_lib_source_location)
using SourceLocation = std::source_location;
#else
// clang 14 with libstdc++ 12 has the builtins but not the class.
class SourceLocation {
  public:
    static constexpr SourceLocation current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE(),
                                            const char* function = __builtin_FUNCTION()) {
        SourceLocation location;
        location.file_ = file;
        location.line_ = line;
        location.function_ = function;
        return location;
    }
    constexpr const char* file_name() const { return file_; }
    constexpr unsigned line() const { return line_; }
    constexpr const char* function_name() const { return function_; }

  private:
    const char* file_ = "";
    unsigned line_ = 0;
    const char* function_ = "";
};
#endif

// What went wrong, for a person: one sentence (what, where, what would be right), the errno behind it, the place in our
// source. `code` is 0 where no errno applies.
class [[nodiscard]] Error {
  public:
    Error(std::string message, int code = 0, SourceLocation where = SourceLocation::current())
        : message_(std::move(message)), code_(code), where_(where) {}

    const std::string& message() const { return message_; }
    int code() const { return code_; }
    SourceLocation where() const { return where_; }

    // The same error seen by a caller that knows more: "<context>: <message>".
    Error with_context(std::string_view context) && {
        message_.insert(0, std::string(context) + ": ");
        return std::move(*this);
    }

  private:
    std::string message_;
    int code_;
    SourceLocation where_;
};

// "<what>: <strerror(code)>", for a syscall that failed; `what` names the call's object: "open /etc/passwd".
inline Error sys_error(std::string_view what, int code = errno, SourceLocation where = SourceLocation::current()) {
    return Error(std::string(what) + ": " + strerrordesc_np(code), code, where);
}

namespace detail {

template <typename T, typename E>
class [[nodiscard]] BasicResult {
  public:
    using value_type = T;
    using error_type = E;

    BasicResult(E error) : state_(std::in_place_index<1>, std::move(error)) {}
    template <typename U = T>
    requires(std::is_convertible_v<U&&, T> && !std::is_same_v<std::remove_cvref_t<U>, BasicResult> &&
             !std::is_same_v<std::remove_cvref_t<U>, E>) BasicResult(U&& value)
        : state_(std::in_place_index<0>, std::forward<U>(value)) {}

    bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }

    T& value() & { return checked(); }
    const T& value() const& { return const_cast<BasicResult*>(this)->checked(); }
    T&& value() && { return std::move(checked()); }
    T& operator*() & { return checked(); }
    const T& operator*() const& { return const_cast<BasicResult*>(this)->checked(); }
    T&& operator*() && { return std::move(checked()); }
    T* operator->() { return &checked(); }
    const T* operator->() const { return &const_cast<BasicResult*>(this)->checked(); }
    T value_or(T fallback) && { return ok() ? std::move(checked()) : std::move(fallback); }

    const E& error() const { return *std::get_if<1>(&state_); }
    E take_error() { return std::move(*std::get_if<1>(&state_)); }
    T take_value() { return std::move(checked()); }

  private:
    T& checked() {
        if (auto* value = std::get_if<0>(&state_)) return *value;
        std::fputs("BUG: value() of a failed Result\n", stderr);
        std::abort();
    }
    std::variant<T, E> state_;
};

template <typename E>
class [[nodiscard]] BasicResult<void, E> {
  public:
    using value_type = void;
    using error_type = E;

    BasicResult() = default;
    BasicResult(E error) : error_(std::move(error)) {}

    bool ok() const { return !error_.has_value(); }
    explicit operator bool() const { return ok(); }
    const E& error() const { return *error_; }
    E take_error() { return std::move(*error_); }
    void take_value() {}
    void value() const {}

  private:
    std::optional<E> error_;
};

// Success or errno, the commonest answer of the sentry: one integer.
template <>
class [[nodiscard]] BasicResult<void, Errno> {
  public:
    using value_type = void;
    using error_type = Errno;

    BasicResult() = default;
    BasicResult(Errno error) : error_(error.value != 0 ? error : Errno(EIO)) {}

    bool ok() const { return error_.value == 0; }
    explicit operator bool() const { return ok(); }
    const Errno& error() const { return error_; }
    Errno take_error() { return error_; }
    void take_value() {}
    void value() const {}

  private:
    Errno error_ = Errno(0);
};

}  // namespace detail

template <typename T>
using Result = detail::BasicResult<T, Error>;
template <typename T>
using SysResult = detail::BasicResult<T, Errno>;

// The errno of a failed SysResult or Result (0 becomes EIO: a failure is never success to a guest).
inline int errno_of(Errno e) { return e.value; }
inline int errno_of(const Error& e) { return e.code() != 0 ? e.code() : EIO; }

#define TRY(...)                             \
    ({                                       \
        auto&& try_result_ = (__VA_ARGS__);  \
        if (!try_result_.ok()) [[unlikely]]  \
            return try_result_.take_error(); \
        try_result_.take_value();            \
    })

[[noreturn]] inline void fail_check(const char* what, const char* file, int line) {
    std::fprintf(stderr, "BUG: %s (%s:%d)\n", what, file, line);
    std::abort();
}

// A bug in our own code if it does not hold; never for anything a guest, image or client can cause.
#define CHECK(condition) ((condition) ? static_cast<void>(0) : ::casemate::fail_check(#condition, __FILE__, __LINE__))

#define MUST(...)                                                                         \
    ({                                                                                    \
        auto&& must_result_ = (__VA_ARGS__);                                              \
        if (!must_result_.ok()) ::casemate::fail_check(#__VA_ARGS__, __FILE__, __LINE__); \
        must_result_.take_value();                                                        \
    })

}  // namespace casemate
