"""One end of the soak: serves, and has connections of all kinds with the other end.

usage: flood.py PORT CLIENTS SEED PEER...     PEER: addresses; the other end listens on the same port
Each line of standard input is a number of seconds for which the clients are at it; at its end this end ends, too.
Streams are compared with what they should be. Prints "ready", and
  clients: N operations, N bytes, N stuck, N wrong     when its clients have done
  left: N connections, N threads                       at the end
"""
import collections
import hashlib
import random
import socket
import struct
import sys
import threading
import time

PATIENCE = 60       # seconds in which a stream must move
RESET_PATIENCE = 5  # a reset that is lost is not repeated
MOST = 400_000
pool = random.Random(4711).randbytes(1 << 20) * 2  # what streams carry: a part of it
counts = collections.Counter()
lock = threading.Lock()
complaints = []


def count(**more):
    with lock:
        counts.update(more)


def complain(kind, text):
    with lock:
        counts[kind] += 1
        if len(complaints) < 20:
            complaints.append(text)


def part(seed, size):
    at = seed % (1 << 20)
    return pool[at:at + size]


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    connection.close()


def receive(connection, size):
    got = bytearray()
    while len(got) < size:
        more = connection.recv(min(size - len(got), 1 << 16))
        if not more:
            break
        got += more
    return bytes(got)


# ---- the serving side: what a client says first is a letter, a size and a seed

def serve(connection):
    try:
        connection.settimeout(PATIENCE)
        head = receive(connection, 9)
        if len(head) < 9:
            return
        kind, size, seed = struct.unpack('!cII', head)
        if kind == b'S' and size <= MOST:
            connection.sendall(hashlib.sha256(receive(connection, size)).digest())
        elif kind == b'G' and size <= MOST:
            connection.sendall(part(seed, size))
        elif kind == b'E':
            while more := connection.recv(1 << 16):
                connection.sendall(more)
        elif kind == b'R' and size <= MOST:
            receive(connection, size // 2)
            reset(connection)
        elif kind == b'T':
            time.sleep(2)
    except OSError:
        pass  # the client has reset, and the reset may be lost
    finally:
        connection.close()


# ---- the asking side

def upload(connection, size, seed):
    data = part(seed, size)
    connection.sendall(b'S' + struct.pack('!II', size, seed) + data)
    if receive(connection, 32) != hashlib.sha256(data).digest():
        complain('wrong', f'upload of {size} bytes')
    count(bytes=size)


def download(connection, size, seed):
    connection.sendall(b'G' + struct.pack('!II', size, seed))
    got = receive(connection, size + 1)
    if got != part(seed, size):
        complain('wrong', f'download of {size} bytes: {len(got)}')
    count(bytes=size)


def echo(connection, size, seed):
    size //= 4
    connection.sendall(b'E' + struct.pack('!II', 0, 0))
    data = part(seed, size)
    sender = threading.Thread(target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR)))
    sender.start()
    got = receive(connection, size + 1)
    sender.join()
    if got != data:
        complain('wrong', f'echo of {size} bytes: {len(got)}')
    count(bytes=2 * size)


def turns(connection, size, seed):
    connection.sendall(b'E' + struct.pack('!II', 0, 0))
    for i in range(20):
        connection.sendall(part(seed + i, 30 + i))
        if receive(connection, 30 + i) != part(seed + i, 30 + i):
            return complain('wrong', f'turn {i}')


def is_reset(connection, size, seed):
    try:
        connection.settimeout(RESET_PATIENCE)
        connection.sendall(b'R' + struct.pack('!II', size, seed) + part(seed, size))
        receive(connection, 1)
    except (ConnectionResetError, BrokenPipeError, TimeoutError):
        pass


def resets(connection, size, seed):
    connection.sendall(b'S' + struct.pack('!II', size, seed) + part(seed, size // 2))
    reset(connection)


def stalls(connection, size, seed):
    connection.sendall(b'T' + struct.pack('!II', 0, 0))
    connection.settimeout(1)
    try:
        for _ in range(100):
            connection.sendall(part(seed, 1 << 16))
    except OSError:
        pass
    reset(connection)


def garbage(connection, size, seed):
    try:
        connection.settimeout(RESET_PATIENCE)
        connection.sendall(b'?' + part(seed, size + 8))
        receive(connection, 1)
    except (ConnectionResetError, BrokenPipeError, TimeoutError):
        pass


KINDS = [upload] * 4 + [download] * 4 + [echo] * 2 + [turns] * 2 + [is_reset, resets, stalls, garbage]


def client(number, port, peers, until, seed):
    chance = random.Random(seed * 1000 + number)
    while time.monotonic() < until:
        kind = chance.choice(KINDS)
        size, start = chance.choice([100, 5000, MOST]) * chance.randint(1, 100) // 100, chance.randrange(1 << 20)
        peer = peers[number % len(peers)]
        try:
            with socket.create_connection((peer, port), timeout=PATIENCE) as connection:
                connection.settimeout(PATIENCE)
                kind(connection, size, start)
        except TimeoutError:
            complain('stuck', f'{kind.__name__} of {size} bytes to {peer}')
        except OSError as error:
            complain('wrong', f'{kind.__name__} of {size} bytes to {peer}: {error}')
        count(operations=1)


def connections():
    """Of this end that are neither listening nor waiting for their time to pass."""
    found = 0
    for name in ('tcp', 'tcp6'):
        with open('/proc/net/' + name) as file:
            found += sum(line.split()[3] not in ('0A', '06') for line in file.readlines()[1:])
    return found


def accept(listener):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def main():
    port, clients, seed = map(int, sys.argv[1:4])
    peers = sys.argv[4:]
    threading.stack_size(256 << 10)
    listener = socket.create_server(('::', port), family=socket.AF_INET6, backlog=256, dualstack_ipv6=True)
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    print('ready', flush=True)
    for line in sys.stdin:
        until = time.monotonic() + int(line)
        seed += 2
        threads = [threading.Thread(target=client, args=(i, port, peers, until, seed)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f'clients: {counts["operations"]} operations, {counts["bytes"]} bytes, {counts["stuck"]} stuck, '
              f'{counts["wrong"]} wrong', flush=True)
        for text in complaints:
            print(f'# {text}', flush=True)
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    end = time.monotonic() + PATIENCE + 30
    while time.monotonic() < end and (connections() or threading.active_count() > 1):
        time.sleep(0.5)
    print(f'left: {connections()} connections, {threading.active_count() - 1} threads, {counts["stuck"]} stuck', flush=True)


main()
