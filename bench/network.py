"""The network group of bench/run: servers in a pod asked from the host through a veth pair, and what stays on the pod's
loopback. Each runtime gets a network namespace of its own, made anew for each server, as CNI would make it."""
import json
import os
import re
import signal
import socket
import subprocess
import time

HOST, POD = '10.197.83.1', '10.197.83.2'


class Space:
    serial = 0

    def __init__(self):
        Space.serial += 1
        self.name = f'casemate-bench-{os.getpid()}-{Space.serial}'
        self.path = f'/run/netns/{self.name}'
        self.link = link = f'cb{os.getpid()}-{Space.serial}'
        for command in (f'netns add {self.name}', f'link add {link} type veth peer name eth0 netns {self.name}',
                        f'address add {HOST}/24 dev {link}', f'link set {link} up', f'-n {self.name} link set lo up',
                        f'-n {self.name} address add {POD}/24 brd + dev eth0', f'-n {self.name} link set eth0 up',
                        f'-n {self.name} route add default via {HOST}'):
            subprocess.run(['ip'] + command.split(), check=True)

    def remove(self):
        # The address of the link is the next one's, and a namespace goes only with the last process in it.
        subprocess.run(['ip', 'link', 'del', self.link], check=False)
        subprocess.run(['ip', 'netns', 'del', self.name], check=False)


def answers(port, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            socket.create_connection((POD, port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def output_of(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    return done.stdout.decode(errors='replace')


def requests(connections, seconds):
    text = output_of(['wrk', '-t', '1' if connections < 8 else '2', '-c', str(connections), '-d', f'{seconds}s',
                      f'http://{POD}:8080/'])
    found = re.search(r'Requests/sec: +([0-9.]+)', text)
    if not found or 'Socket errors' in text:
        raise ValueError(' '.join(text.split())[-150:])
    return float(found[1])


def gigabits(arguments, seconds):
    for _ in range(10):  # one client at a time, and it takes a moment between two
        text = output_of(['iperf3', '-c', POD, '-t', str(seconds), '-J'] + arguments)
        try:
            return json.loads(text)['end']['sum_received']['bits_per_second'] / 1e9
        except (KeyError, ValueError):
            time.sleep(0.5)
    raise ValueError(' '.join(text.split())[-150:])


def servers(seconds):
    """Name of the server in bench/apps, its port, and its rows: name, unit, how to measure."""
    return [
        ('nginx', 8080, [('nginx through the veth, wrk with 2 connections', 'req/s', lambda: requests(2, seconds)),
                         ('nginx through the veth, wrk with 64 connections', 'req/s', lambda: requests(64, seconds))]),
        ('iperf', 5201, [('iperf3 through the veth, into the pod', 'Gbit/s', lambda: gigabits([], seconds)),
                         ('iperf3 through the veth, out of the pod', 'Gbit/s', lambda: gigabits(['-R'], seconds))]),
    ]


def through_the_veth(results, runtime, quick, wanted):
    for server, port, rows in servers(1 if quick else 3):
        if wanted and server not in wanted:
            continue
        space = Space()
        process = subprocess.Popen(runtime.network_command(['/bench/apps', '--serve', server], space.path),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        try:
            if not answers(port):
                for name, unit, _ in rows:
                    results.add('network', name, unit, runtime.name, error=f'{server} does not answer')
                continue
            for name, unit, measure in rows:
                try:
                    results.add('network', name, unit, runtime.name, measure())
                except (ValueError, subprocess.TimeoutExpired) as error:
                    results.add('network', name, unit, runtime.name, error=str(error))
        finally:
            runtime.finish()
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            space.remove()
