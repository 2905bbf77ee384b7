# Threads, subprocess, multiprocessing, asyncio, sqlite3 and what is near them.
import asyncio, concurrent.futures, fcntl, hashlib, mmap, multiprocessing, multiprocessing.shared_memory, os, queue, select, shutil
import signal, socket, sqlite3, subprocess, sys, tempfile, threading, time


def section(name):
    print("==", name, flush=True)


def square(number):
    return number * number


def count(lock, value):
    for _ in range(200):
        with lock:
            value.value += 1


def main():
    section("threads")
    results = queue.Queue()
    barrier = threading.Barrier(8)
    def work(i):
        barrier.wait(20)
        results.put(i)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print(sorted(results.queue))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        print(sum(pool.map(square, range(1000))))
    condition, seen = threading.Condition(), []
    def consumer():
        with condition:
            print(condition.wait_for(lambda: len(seen) == 3, 20))
    t = threading.Thread(target=consumer); t.start()
    for i in range(3):
        with condition:
            seen.append(i); condition.notify_all()
    t.join()

    section("subprocess")
    print(subprocess.run(["sh", "-c", "cat; echo err >&2; exit 3"], input=b"in", capture_output=True))
    try:
        subprocess.run(["sleep", "20"], timeout=0.1)
    except subprocess.TimeoutExpired as e:
        print(type(e).__name__)
    a = subprocess.Popen(["seq", "1000"], stdout=subprocess.PIPE)
    print(subprocess.run(["wc", "-l"], stdin=a.stdout, capture_output=True).stdout, a.wait())
    p = subprocess.Popen(["sleep", "20"], start_new_session=True); os.killpg(p.pid, signal.SIGTERM); print(p.wait())
    print(subprocess.run(["sh", "-c", "ulimit -n; pwd"], cwd="/etc", preexec_fn=lambda: None, capture_output=True).stdout)

    section("multiprocessing")
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            print(method, pool.map(square, range(6)))
    lock, value = multiprocessing.Lock(), multiprocessing.Value("i", 0, lock=False)
    processes = [multiprocessing.Process(target=count, args=(lock, value)) for _ in range(3)]
    [p.start() for p in processes]; [p.join() for p in processes]
    print(value.value)
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 16)
    other = multiprocessing.shared_memory.SharedMemory(memory.name)
    memory.buf[5] = 77; print(other.buf[5]); other.close(); memory.close(); memory.unlink()
    left, right = multiprocessing.Pipe(); left.send({"a": [1, 2]}); print(right.recv())

    section("asyncio")
    async def client(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n"); line = await reader.readline(); writer.close()
        return line
    async def serve():
        async def handle(reader, writer):
            writer.write((await reader.readline()).upper()); await writer.drain(); writer.close()
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        print(await asyncio.gather(*[client(port) for _ in range(5)]))
        process = await asyncio.create_subprocess_exec("echo", "sub", stdout=asyncio.subprocess.PIPE)
        print((await process.communicate())[0], await asyncio.to_thread(square, 12))
        try:
            await asyncio.wait_for(asyncio.sleep(20), 0.05)
        except asyncio.TimeoutError:
            print("timeout")
        loop = asyncio.get_running_loop(); got = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, got.set); os.kill(os.getpid(), signal.SIGUSR1); await asyncio.wait_for(got.wait(), 20)
        print("signal")
        server.close()
    asyncio.run(serve())

    section("sqlite3")
    for mode in ("delete", "wal"):
        db = sqlite3.connect(f"{mode}.db"); print(db.execute(f"pragma journal_mode={mode}").fetchall())
        db.execute("create table t(a integer primary key, b text)"); db.executemany("insert into t(b) values(?)", [(str(i),) for i in range(2000)]); db.commit()
        second = sqlite3.connect(f"{mode}.db"); print(second.execute("select sum(a), max(b) from t").fetchall()); second.close()
        try:
            with db:
                db.execute("delete from t"); raise ValueError
        except ValueError:
            print(db.execute("select count(*) from t").fetchall())
        db.close()

    section("files")
    with tempfile.TemporaryDirectory() as d:
        with open(f"{d}/m", "w+b") as f:
            f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[4000:4005] = b"bytes"; m.flush(); f.seek(4000); print(f.read(5)); fcntl.flock(f, fcntl.LOCK_EX)
        shutil.copytree("/etc/skel", f"{d}/k"); print(sorted(os.listdir(f"{d}/k")), os.access(d, os.W_OK), shutil.which("sh"))
        print(sorted(e.name for e in os.scandir(d) if e.is_dir()), os.statvfs(d).f_namemax)
    print(hashlib.sha256(b"x").hexdigest()[:8], len(os.urandom(16)), time.tzname, sys.platform, os.cpu_count() >= 1)

    section("signals")
    got = []
    signal.signal(signal.SIGALRM, lambda *a: got.append("alarm")); signal.setitimer(signal.ITIMER_REAL, 0.02); signal.pause(); print(got)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2)
    print(signal.sigpending(), signal.sigtimedwait([signal.SIGUSR2], 1).si_signo)
    a, b = socket.socketpair(); ep = select.epoll(); ep.register(b, select.EPOLLIN | select.EPOLLET); a.send(b"x"); print([e for _, e in ep.poll(5)], ep.poll(0))
    socket.send_fds(a, [b"fd"], [0]); print(len(socket.recv_fds(b, 9, 1)[1]))


if __name__ == "__main__":
    main()
