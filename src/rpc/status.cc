#include "rpc/status.h"

namespace casemate::rpc {

Status Status::from_error(const Error& error) { return Status(code_of_errno(errno_of(error)), error.message()); }

std::string_view code_name(Code code) {
    switch (code) {
        case Code::kOk:
            return "ok";
        case Code::kCancelled:
            return "cancelled";
        case Code::kUnknown:
            return "unknown error";
        case Code::kInvalidArgument:
            return "invalid argument";
        case Code::kDeadlineExceeded:
            return "deadline exceeded";
        case Code::kNotFound:
            return "not found";
        case Code::kAlreadyExists:
            return "already exists";
        case Code::kPermissionDenied:
            return "permission denied";
        case Code::kResourceExhausted:
            return "resource exhausted";
        case Code::kFailedPrecondition:
            return "failed precondition";
        case Code::kAborted:
            return "aborted";
        case Code::kOutOfRange:
            return "out of range";
        case Code::kUnimplemented:
            return "not supported";
        case Code::kInternal:
            return "internal error";
        case Code::kUnavailable:
            return "unavailable";
        case Code::kDataLoss:
            return "data loss";
        case Code::kUnauthenticated:
            return "unauthenticated";
    }
    return "unknown error";
}

Code code_of_errno(int errno_value) {
    switch (errno_value) {
        case 0:
            return Code::kOk;
        case ECANCELED:
            return Code::kCancelled;
        case EINVAL:
        case E2BIG:
        case ENAMETOOLONG:
        case ENOTDIR:
        case EISDIR:
        case ELOOP:
        case ENOEXEC:
            return Code::kInvalidArgument;
        case ETIMEDOUT:
            return Code::kDeadlineExceeded;
        case ENOENT:
        case ESRCH:
        case ENXIO:
        case ENODEV:
            return Code::kNotFound;
        case EEXIST:
            return Code::kAlreadyExists;
        case EPERM:
        case EACCES:
        case EROFS:
            return Code::kPermissionDenied;
        case ENOMEM:
        case ENOSPC:
        case EDQUOT:
        case EMFILE:
        case ENFILE:
        case EAGAIN:
            return Code::kResourceExhausted;
        case EBUSY:
        case ENOTEMPTY:
            return Code::kFailedPrecondition;
        case ERANGE:
        case EOVERFLOW:
            return Code::kOutOfRange;
        case ENOSYS:
        case EOPNOTSUPP:
            return Code::kUnimplemented;
        case EIO:
            return Code::kInternal;
        case ECONNRESET:
        case ECONNREFUSED:
        case ENOTCONN:
        case EPIPE:
            return Code::kUnavailable;
        case EBADMSG:
            return Code::kDataLoss;
        default:
            return Code::kUnknown;
    }
}

int errno_of_code(Code code) {
    switch (code) {
        case Code::kOk:
            return 0;
        case Code::kCancelled:
            return ECANCELED;
        case Code::kInvalidArgument:
            return EINVAL;
        case Code::kDeadlineExceeded:
            return ETIMEDOUT;
        case Code::kNotFound:
            return ENOENT;
        case Code::kAlreadyExists:
            return EEXIST;
        case Code::kPermissionDenied:
        case Code::kUnauthenticated:
            return EACCES;
        case Code::kResourceExhausted:
            return ENOMEM;
        case Code::kFailedPrecondition:
            return EBUSY;
        case Code::kAborted:
            return EAGAIN;
        case Code::kOutOfRange:
            return ERANGE;
        case Code::kUnimplemented:
            return EOPNOTSUPP;
        case Code::kUnavailable:
            return ECONNRESET;
        case Code::kDataLoss:
            return EBADMSG;
        case Code::kUnknown:
        case Code::kInternal:
            return EIO;
    }
    return EIO;
}

Error error_of(const Status& status) {
    std::string message = status.message.empty() ? std::string(code_name(status.code)) : status.message;
    return Error(std::move(message), errno_of_code(status.code));
}

}  // namespace casemate::rpc
