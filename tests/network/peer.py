"""Both ends of the network tests: streams of numbered bytes with their checksum, datagrams, resets.

usage: peer.py COMMAND ADDRESS PORT [NUMBER]
  serve   accepts connections for ever; what a client sends first says what it wants:
          "sink N\n" takes N bytes and answers their SHA-256; "source N SEED\n" sends N bytes and ends;
          "echo\n" echoes; "reset\n" resets; "stall\n" never reads
  sink    sends NUMBER bytes to a server and compares what it has got
  source  takes NUMBER bytes from a server and compares
  udp-serve, udp: echo of datagrams
  udp-burst  NUMBER datagrams before the first answer is read, which come in order
  udp-many   NUMBER sockets, one after another
  urgent  sends urgent bytes to a server that asks for them so ("urgent"), which answers what it has seen
  half-close  sends NUMBER bytes to an echo, ends, and reads until the end
  syn-flood, fragment-flood  for NUMBER seconds: SYNs of strangers on this link that never answer, and first parts of
          datagrams whose others never come; "ready" is said when some thousand have gone
  ping    echo requests with NUMBER bytes
  refused, reset, timeout, unreachable: expects that error of connect or of a read
"""
import errno
import fcntl
import hashlib
import random
import select
import socket
import struct
import sys
import threading
import time


def data(total, seed):
    block = random.Random(seed).randbytes(1 << 16)
    count = 0
    while total > 0:
        part = struct.pack("<Q", count) + block[8:]
        part = part[:total]
        yield part
        total -= len(part)
        count += 1


def digest_of(total, seed):
    digest = hashlib.sha256()
    for part in data(total, seed):
        digest.update(part)
    return digest.hexdigest()


def read_line(connection):
    line = b""
    while not line.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte:
            return line
        line += byte
    return line


def handle(connection):
    try:
        words = read_line(connection).decode().split()
        if words[:1] == ["sink"]:
            left, digest = int(words[1]), hashlib.sha256()
            while left > 0:
                got = connection.recv(min(left, 1 << 18))
                if not got:
                    break
                digest.update(got)
                left -= len(got)
            connection.sendall(digest.hexdigest().encode())
        elif words[:1] == ["source"]:
            for part in data(int(words[1]), int(words[2])):
                connection.sendall(part)
        elif words[:1] == ["urgent"]:
            # Up to the mark, the byte beside the stream, and the rest; then the same back.
            seen = b""
            while len(seen) < 3:
                seen += connection.recv(100)
            select.select([], [], [connection], 20)
            beside = connection.recv(1, socket.MSG_OOB)
            rest = b""
            while len(rest) < 3:
                rest += connection.recv(100)
            connection.sendall(b"%s|%s|%s\n" % (seen, beside, rest))
            connection.sendall(b"uvw")
            connection.send(b"!", socket.MSG_OOB)
            connection.sendall(b"xyz")
            connection.recv(1)
        elif words[:1] == ["echo"]:
            while got := connection.recv(65536):
                connection.sendall(got)
        elif words[:1] == ["reset"]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif words[:1] == ["stall"]:
            threading.Event().wait(600)
    except OSError:
        pass
    connection.close()


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def flood(address, port, syn, seconds):
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    to = socket.inet_aton(address)
    pool, sent, end = random.Random(4712), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        source = to[:3] + bytes([pool.randrange(100, 250)])
        if syn:
            head = struct.pack("!HHIIBBHHH", pool.randrange(1024, 65536), port, pool.getrandbits(32), 0, 5 << 4, 2, 8192, 0, 0)
            total = sum(struct.unpack("!20H", source + to + struct.pack("!HH", 6, len(head)) + head + bytes(8)))
            while total >> 16:
                total = (total & 0xffff) + (total >> 16)
            body, fragment, protocol = head[:16] + struct.pack("!H", total ^ 0xffff) + head[18:], 0, 6
        else:
            body, fragment, protocol = bytes(1400), 0x2000, 17
        # The kernel fills in the header's checksum and length.
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, pool.getrandbits(16), fragment, 64, protocol, 0, source, to)
        try:
            out.sendto(header + body, (address, 0))
        except OSError:
            pass
        sent += 1
        if sent == 5000:
            print("ready", flush=True)
        if sent % 100 == 0:
            time.sleep(0.005)


def main():
    command, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    number = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    family = family_of(address)
    if command == "serve":
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind((address, port))
        server.listen(128)
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()
    if command == "udp-serve":
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, port))
        print("ready", flush=True)
        while True:
            got, peer = server.recvfrom(65536)
            server.sendto(got, peer)
    if command == "udp":
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(20)
        client.connect((address, port))
        for size in (0, 1, 100, 1400, 5000, 20000):
            sent = bytes(i * 7 % 251 for i in range(size))
            client.send(sent)
            assert client.recv(65536) == sent, size
        print("udp ok")
        return
    if command in ("syn-flood", "fragment-flood"):
        flood(address, port, command == "syn-flood", number)
        return
    if command == "udp-burst":
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(20)
        client.connect((address, port))
        for i in range(number):
            client.send(b"%d" % i)
        for i in range(number):
            assert client.recv(100) == b"%d" % i, i
        print("burst ok")
        return
    if command == "udp-many":
        clients = []
        for i in range(number):
            client = socket.socket(family, socket.SOCK_DGRAM)
            client.settimeout(20)
            clients.append(client)
            for word in (b"first of %d" % i, b"second of %d" % i):
                client.sendto(word, (address, port))
                got, sender = client.recvfrom(100)
                assert got == word and sender[:2] == (address, port), (got, sender)
        print("many ok")
        return
    if command == "ping":
        v6 = family == socket.AF_INET6
        client = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
        client.settimeout(5)
        for sequence in range(3):
            message = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 4711, sequence) + bytes(range(200)) * (number // 200 + 1)
            message = message[:number + 8]
            if not v6:
                total = sum(struct.unpack("!%dH" % (len(message) // 2), message[:len(message) // 2 * 2]))
                total += message[-1] << 8 if len(message) % 2 else 0
                while total >> 16:
                    total = (total & 0xffff) + (total >> 16)
                message = message[:2] + struct.pack("!H", total ^ 0xffff) + message[4:]
            client.sendto(message, (address, 0))
            while True:
                got, source = client.recvfrom(65536)
                got = got if v6 else got[20:]
                if source[0] == address and got[0] == (129 if v6 else 0) and got[4:] == message[4:]:
                    break
        print("ping ok")
        return
    if command == "udp-refused":
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.settimeout(20)
        client.connect((address, port))
        client.send(b"x")
        try:
            client.recv(10)
        except ConnectionRefusedError:
            print("refused ok")
        return
    client = socket.socket(family, socket.SOCK_STREAM)
    client.settimeout(number if command == "timeout" else 300)
    try:
        client.connect((address, port))
        if command == "reset":
            client.sendall(b"reset\n")
            client.recv(10)
    except OSError as error:
        print("%s ok" % errno.errorcode.get(error.errno, type(error).__name__))
        return
    if command == "sink":
        client.sendall(b"sink %d\n" % number)
        for part in data(number, 7):
            client.sendall(part)
        got = b""
        while part := client.recv(100):
            got += part
        assert got.decode() == digest_of(number, 7), got
        print("sink ok")
    elif command == "source":
        client.sendall(b"source %d 9\n" % number)
        digest, total = hashlib.sha256(), 0
        while part := client.recv(1 << 18):
            digest.update(part)
            total += len(part)
        assert (total, digest.hexdigest()) == (number, digest_of(number, 9)), total
        print("source ok")
    elif command == "echo":
        client.sendall(b"echo\n")
        for i in range(number):
            sent = b"%d" % i
            client.sendall(sent)
            got = b""
            while len(got) < len(sent):
                part = client.recv(100)
                assert part, i
                got += part
            assert got == sent
        print("echo ok")
    elif command == "urgent":
        client.sendall(b"urgent\n")
        client.sendall(b"abc")
        client.send(b"?", socket.MSG_OOB)
        client.sendall(b"def")
        assert read_line(client) == b"abc|?|def\n"
        if number:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        got, marks = b"", []
        while len(got) < (7 if number else 6):
            marks.append((len(got), struct.unpack("i", fcntl.ioctl(client, 0x8905, b"0000"))[0]))  # SIOCATMARK
            part = client.recv(100)
            assert part, got
            got += part
            if not number and len(got) == 3:
                select.select([], [], [client], 20)
                assert client.recv(1, socket.MSG_OOB) == b"!"
        assert got == (b"uvw!xyz" if number else b"uvwxyz"), got
        client.sendall(b".")
        print("urgent ok")
    elif command == "half-close":
        client.sendall(b"echo\n")
        sent = b"".join(data(number, 5))

        def send():
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)

        threading.Thread(target=send).start()
        got = b""
        while part := client.recv(65536):
            got += part
        assert got == sent, len(got)
        print("half-close ok")
    elif command == "stall":
        client.sendall(b"stall\n")
        client.settimeout(2)
        sent = 0
        try:
            while sent < 100 << 20:
                sent += client.send(bytes(1 << 16))
        except TimeoutError:
            print("stall ok")


main()
