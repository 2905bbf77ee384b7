"""What sockets answer, one line a question. Run on the host's kernel and in a pod in host network mode: the lines are the
same. Everything happens between sockets of this program.

usage: probe.py
"""
import ctypes
import errno
import os
import select
import signal
import socket
import struct
import threading
import time

signal.alarm(100)
signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def say(name, value):
    print(f"{name}: {value}", flush=True)


def error_of(call, *arguments):
    try:
        result = call(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, error.errno)
    return result if isinstance(result, (int, bytes, str, tuple)) else "done"


def pair(family=socket.AF_INET):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listener.listen(5)
    client = socket.create_connection(listener.getsockname()[:2])
    server, _ = listener.accept()
    listener.close()
    return client, server


def poll(sock, events=select.POLLIN | select.POLLOUT | select.POLLRDHUP, wait=0):
    one = select.poll()
    one.register(sock, events)
    return [event for _, event in one.poll(wait)]


def errors():
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    address = closed.getsockname()
    say("refused", error_of(socket.socket().connect, address))
    eager = socket.socket()
    eager.setblocking(False)
    say("nonblocking-connect", error_of(eager.connect, address))
    poll(eager, select.POLLOUT, 5000)
    say("nonblocking-error", errno.errorcode[eager.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    say("nonblocking-error-once", eager.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    closed.listen(1)
    eager = socket.socket()
    eager.setblocking(False)
    error_of(eager.connect, address)
    poll(eager, select.POLLOUT, 5000)
    say("nonblocking-connected", error_of(eager.connect, address))
    say("connected-again", error_of(eager.connect, address))
    say("in-use", error_of(socket.socket().bind, address))
    say("not-ours", error_of(socket.socket().bind, ("192.0.2.1", 0)))
    say("wrong-family", error_of(socket.socket(socket.AF_INET6).bind, ("::ffff:192.0.2.1", 0)))
    say("not-connected-send", error_of(socket.socket().send, b"x"))
    say("not-connected-peer", error_of(socket.socket().getpeername))
    say("not-connected-shutdown", error_of(socket.socket().shutdown, socket.SHUT_RDWR))
    say("accept-without-listen", error_of(socket.socket().accept))
    say("listen-accept-empty", error_of(lambda: (closed.setblocking(False), closed.accept(), closed.accept())))
    unsent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    say("datagram-without-peer", error_of(unsent.send, b"x"))
    say("datagram-too-long", error_of(unsent.sendto, b"x" * 65508, ("127.0.0.1", 9)))
    say("datagram-to-port-0", error_of(unsent.sendto, b"x", ("127.0.0.1", 0)))
    say("broadcast-without-leave", error_of(unsent.sendto, b"x", ("255.255.255.255", 9)))
    free = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    free.bind(("127.0.0.1", 0))
    nobody = free.getsockname()
    free.close()
    unsent.connect(nobody)
    unsent.send(b"x")
    unsent.settimeout(5)
    say("datagram-refused", error_of(unsent.recv, 10))


def streams():
    for family, name in ((socket.AF_INET, "v4"), (socket.AF_INET6, "v6")):
        client, server = pair(family)
        sent = os.urandom(3_000_000)
        got = bytearray()

        def take():
            while len(got) < len(sent):
                got.extend(server.recv(70_000))

        thread = threading.Thread(target=take)
        thread.start()
        client.sendall(sent)
        thread.join()
        say(f"{name}-bytes", bytes(got) == sent)
        client.sendmsg([b"abc", b"", b"defg" * 2])
        say(f"{name}-peek", server.recv(4, socket.MSG_PEEK))
        say(f"{name}-parts", server.recv(100, socket.MSG_WAITALL | socket.MSG_DONTWAIT))
        threading.Timer(0.2, lambda: client.sendall(b"5678")).start()
        client.sendall(b"1234")
        say(f"{name}-waitall", server.recv(8, socket.MSG_WAITALL))
        client.sendall(b"x" * 10)
        time.sleep(0.1)
        say(f"{name}-trunc", len(server.recv(4, socket.MSG_TRUNC)))
        say(f"{name}-behind-trunc", server.recv(100))
        say(f"{name}-would-block", error_of(server.recv, 1, socket.MSG_DONTWAIT))
        server.settimeout(0.1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 100_000))
        server.setblocking(True)
        say(f"{name}-timeout", error_of(server.recv, 1))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
        client.send(b"!", socket.MSG_OOB)
        say(f"{name}-urgent-event", poll(server, select.POLLPRI, 5000) != [])
        say(f"{name}-urgent", server.recv(1, socket.MSG_OOB))
        say(f"{name}-urgent-again", error_of(server.recv, 1, socket.MSG_OOB))
        say(f"{name}-idle-events", poll(client))
        client.shutdown(socket.SHUT_WR)
        poll(server, select.POLLRDHUP, 5000)
        say(f"{name}-half-closed-events", poll(server))
        say(f"{name}-end", server.recv(10))
        server.sendall(b"still")
        poll(client, select.POLLIN, 5000)
        say(f"{name}-other-half", client.recv(10))
        say(f"{name}-write-after-end", error_of(client.send, b"x"))
        server.close()
        poll(client, select.POLLIN, 5000)
        say(f"{name}-both-closed-events", poll(client))
        client, server = pair(family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.close()
        poll(client, select.POLLIN, 5000)
        say(f"{name}-reset-events", poll(client))
        say(f"{name}-reset", error_of(client.recv, 1))
        client, server = pair(family)
        full = 0
        client.setblocking(False)
        while not isinstance(error_of(client.send, b"z" * 65536), str):
            full += 1
        say(f"{name}-fills", full > 1)
        say(f"{name}-full-events", poll(client))
        client.setblocking(True)
        drain = threading.Thread(target=lambda end=server: [None for _ in iter(lambda: end.recv(1 << 20), b"")])
        drain.start()
        say(f"{name}-blocked-send", client.send(b"y" * 1000))
        client.close()
        drain.join()


def datagrams():
    for family, host, name in ((socket.AF_INET, "127.0.0.1", "v4"), (socket.AF_INET6, "::1", "v6")):
        one = socket.socket(family, socket.SOCK_DGRAM)
        other = socket.socket(family, socket.SOCK_DGRAM)
        one.bind((host, 0))
        other.bind((host, 0))
        one.settimeout(5)
        other.settimeout(5)
        target = other.getsockname()
        say(f"{name}-sent", one.sendto(b"hello" * 2000, target))
        say(f"{name}-cut", other.recvmsg(5)[0::2])
        one.sendto(b"hello", target)
        say(f"{name}-length", other.recv_into(bytearray(3), 3, socket.MSG_TRUNC))
        one.sendto(b"", target)
        say(f"{name}-empty", other.recv(10))
        one.sendto(b"peeked", target)
        say(f"{name}-peek", other.recv(10, socket.MSG_PEEK) == other.recv(10))
        if family == socket.AF_INET:
            other.setsockopt(socket.IPPROTO_IP, 12, 1)
            other.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        else:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        one.sendto(b"told", target)
        say(f"{name}-control", sorted(other.recvmsg(10, 500)[1]))
        level, kind = (socket.IPPROTO_IP, socket.IP_TTL) if family == socket.AF_INET else (socket.IPPROTO_IPV6, 52)
        one.sendmsg([b"hop"], [(level, kind, struct.pack("i", 7))], 0, target)
        say(f"{name}-hops", sorted(other.recvmsg(10, 500)[1]))
        say(f"{name}-short-control", error_of(one.sendmsg, [b"x"], [(level, kind, b"ab")], 0, target))
        say(f"{name}-wrong-control", error_of(one.sendmsg, [b"x"], [(level, 250, b"abcd")], 0, target))
        one.connect(target)
        say(f"{name}-connected", one.send(b"abc"))
        say(f"{name}-from", other.recvfrom(10)[1][:2] == one.getsockname()[:2])
        libc = ctypes.CDLL(None, use_errno=True)
        waiting = ctypes.c_int(0)
        one.send(b"12345")
        poll(other, select.POLLIN, 5000)
        libc.ioctl(other.fileno(), 0x541B, ctypes.byref(waiting))
        say(f"{name}-fionread", waiting.value)


def readiness():
    client, server = pair()
    server.setblocking(False)
    epoll = select.epoll()
    epoll.register(server, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
    say("edge-quiet", epoll.poll(0.1))
    for round in range(3):
        client.send(b"abc")
        say(f"edge-{round}", [event & select.EPOLLIN for _, event in epoll.poll(5)])
        say(f"edge-{round}-quiet", epoll.poll(0.1))
        if round == 1:
            server.recv(4)  # a part: no new edge by itself
    say("edge-rest", server.recv(100))
    client.send(b"drained")
    say("edge-after-drain", [event & select.EPOLLIN for _, event in epoll.poll(5)])
    client.close()
    say("edge-end", [bool(event & select.EPOLLRDHUP) for _, event in epoll.poll(5)])
    client, server = pair()
    once = select.epoll()
    once.register(server, select.EPOLLIN | select.EPOLLONESHOT)
    client.send(b"x")
    say("oneshot", len(once.poll(5)))
    client.send(b"x")
    say("oneshot-quiet", once.poll(0.1))
    once.modify(server, select.EPOLLIN | select.EPOLLONESHOT)
    say("oneshot-again", len(once.poll(5)))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    level = select.epoll()
    level.register(listener, select.EPOLLIN)
    say("listener-quiet", level.poll(0.1))
    dialled = socket.create_connection(listener.getsockname())
    say("listener", [event for _, event in level.poll(5)])
    say("listener-again", [event for _, event in level.poll(5)])
    del dialled


def options():
    stream, datagram = socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    six = socket.socket(socket.AF_INET6)
    for sock, level, name, values in (
        (stream, socket.SOL_SOCKET, "SO_REUSEADDR", (1, 0)),
        (stream, socket.SOL_SOCKET, "SO_REUSEPORT", (1,)),
        (stream, socket.SOL_SOCKET, "SO_KEEPALIVE", (1, 0)),
        (stream, socket.SOL_SOCKET, "SO_RCVBUF", (1, 4096, 100_000)),
        (stream, socket.SOL_SOCKET, "SO_SNDBUF", (1, 4096, 100_000)),
        (stream, socket.SOL_SOCKET, "SO_RCVLOWAT", (5, -1)),
        (stream, socket.SOL_SOCKET, "SO_OOBINLINE", (1,)),
        (datagram, socket.SOL_SOCKET, "SO_BROADCAST", (1,)),
        (stream, socket.IPPROTO_TCP, "TCP_NODELAY", (1, 0)),
        (stream, socket.IPPROTO_TCP, "TCP_KEEPIDLE", (0, 10, 40_000)),
        (stream, socket.IPPROTO_TCP, "TCP_KEEPINTVL", (10,)),
        (stream, socket.IPPROTO_TCP, "TCP_KEEPCNT", (4, 200)),
        (stream, socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", (1000, -1)),
        (stream, socket.IPPROTO_TCP, "TCP_DEFER_ACCEPT", (3,)),
        (stream, socket.IPPROTO_TCP, "TCP_LINGER2", (30,)),
        (stream, socket.IPPROTO_TCP, "TCP_MAXSEG", (1, 800)),
        (stream, socket.IPPROTO_IP, "IP_TOS", (16,)),
        (stream, socket.IPPROTO_IP, "IP_TTL", (0, 33, 256)),
        (datagram, socket.IPPROTO_IP, "IP_MULTICAST_TTL", (9, 300)),
        (datagram, socket.IPPROTO_IP, "IP_MULTICAST_LOOP", (0,)),
        (six, socket.IPPROTO_IPV6, "IPV6_V6ONLY", (1, 0)),
        (six, socket.IPPROTO_IPV6, "IPV6_UNICAST_HOPS", (12, 256)),
    ):
        number = getattr(socket, name)
        for value in values:
            say(f"{name}-{value}", (error_of(sock.setsockopt, level, number, value), sock.getsockopt(level, number)))
        for size in (0, 1, 3, 5, 200):
            say(f"{name}-set-{size}-bytes", error_of(sock.setsockopt, level, number, b"\1" * size))
        for room in (0, 1, 3, 64):
            say(f"{name}-get-{room}-bytes", error_of(sock.getsockopt, level, number, room))
    say("SO_LINGER", (error_of(stream.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 5)),
                      stream.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)))
    say("SO_LINGER-short", error_of(stream.setsockopt, socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0"))
    say("SO_TYPE", stream.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
    say("SO_PROTOCOL", datagram.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))
    say("SO_TYPE-set", error_of(stream.setsockopt, socket.SOL_SOCKET, socket.SO_TYPE, 1))
    say("congestion", error_of(stream.setsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno"))
    say("congestion-now", stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16))
    say("congestion-unknown", error_of(stream.setsockopt, socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"nothing"))
    say("TCP_INFO", len(stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)))
    say("unknown-option", error_of(stream.setsockopt, socket.IPPROTO_TCP, 200, 1))
    say("unknown-option-get", error_of(stream.getsockopt, socket.IPPROTO_TCP, 200))
    say("join-short", error_of(datagram.setsockopt, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, b"\0" * 4))
    say("join-no-group", error_of(datagram.setsockopt, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, b"\0" * 8))
    group = socket.inet_aton("239.1.2.3") + socket.inet_aton("127.0.0.1")
    say("join", error_of(datagram.setsockopt, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group))
    say("join-again", error_of(datagram.setsockopt, socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group))
    say("leave", error_of(datagram.setsockopt, socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, group))


for part in (errors, streams, datagrams, readiness, options):
    part()
