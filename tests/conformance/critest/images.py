#!/usr/bin/env python3
"""The images that critest's pods are made of, and the registry that containerd pulls them from.

usage: images.py build FOLDER          make them; FOLDER/digest names the one that critest pulls by digest
       images.py serve FOLDER PORT     answer pulls on 127.0.0.1:PORT, read-only

critest names images of registries that a test machine need not reach. Ours have the same names and as much in them as the
tests look at: busybox, Debian's nginx, two programs of a few lines. Made from what is installed, the same bytes each time.
"""
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

# A pod's first process: it reaps nothing, waits, and leaves when told.
PAUSE = r"""
#include <signal.h>
#include <unistd.h>
static void leave(int number) { _exit(0); }
int main(void) {
    signal(SIGCHLD, SIG_IGN);
    signal(SIGINT, leave);
    signal(SIGTERM, leave);
    for (;;) pause();
}
"""
# Set-user-id root: tells whether the privilege was granted.
WHO = r"""
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\n", geteuid()); return 0; }
"""
USERS = ['root:x:0:0:root:/root:/bin/sh', 'www-data:x:33:33:www-data:/var/www:/bin/false',
         'nobody:x:65534:65534:nobody:/:/bin/false']
GROUPS = ['root:x:0:', 'www-data:x:33:', 'nogroup:x:65534:']
NGINX = """worker_processes 1;
user www-data;
pid /var/run/nginx.pid;
error_log /dev/stderr;
events {}
http { access_log /dev/stdout; server { listen %d; root /www; } }
"""
FOLDERS = ('bin dev etc lib lib/x86_64-linux-gnu lib64 proc root sys usr usr/bin usr/sbin var var/log var/run var/www www')
OCI = 'application/vnd.oci.image.'


class Layer:
    """A tar file being made. Everything in it is root's and of 1970."""

    def __init__(self):
        self.file = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.file, mode='w', format=tarfile.GNU_FORMAT)

    def put(self, path, data=b'', mode=0o644, kind=tarfile.REGTYPE, link=''):
        if isinstance(data, str):
            data = data.encode()
        entry = tarfile.TarInfo(path.strip('/'))
        entry.type, entry.mode, entry.linkname, entry.size = kind, mode, link, len(data)
        self.tar.addfile(entry, io.BytesIO(data))

    def folder(self, path, mode=0o755):
        self.put(path, mode=mode, kind=tarfile.DIRTYPE)

    def program(self, path):
        """A program of this machine, and the libraries it asks for."""
        wanted = subprocess.run(['ldd', path], check=True, stdout=subprocess.PIPE, text=True).stdout
        for found in [path] + re.findall(r'(/\S+) \(0x', wanted):
            with open(found, 'rb') as file:
                self.put(found, file.read(), 0o755)

    def finish(self):
        self.tar.close()
        return self.file.getvalue()


def compiled(source):
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, 'program')
        subprocess.run(['gcc', '-xc', '-', '-Os', '-s', '-static', '-o', output], input=source.encode(), check=True)
        with open(output, 'rb') as file:
            return file.read()


def base_layer(users=(), groups=()):
    """busybox under each of its names, users and groups, a page to serve."""
    layer = Layer()
    for path in FOLDERS.split():
        layer.folder(path)
    layer.folder('run', 0o1777)
    layer.folder('tmp', 0o1777)
    with open('/bin/busybox', 'rb') as file:
        busybox = file.read()
    layer.put('bin/busybox', busybox, 0o755)
    # A test covers the file /bin/ls and expects `ls` to fail, but Debian's shell is its own `ls`: ours does not know it.
    assert busybox.count(b'\0losetup\0ls\0lsmod\0') == 1, '/bin/busybox: its list of names is not as expected'
    layer.put('bin/sh', busybox.replace(b'\0losetup\0ls\0lsmod\0', b'\0losetup\0lr\0lsmod\0'), 0o755)
    names = subprocess.run(['/bin/busybox', '--list'], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    for name in names:
        if name not in ('busybox', 'sh'):
            layer.put('bin/' + name, mode=0o755, kind=tarfile.LNKTYPE, link='bin/busybox')
    layer.put('bin/pgrep', '#!/bin/sh\nexec pidof "$1"\n', 0o755)  # not among Debian's names, as ipcs
    layer.program('/usr/bin/ipcs')
    layer.put('etc/passwd', ''.join(line + '\n' for line in USERS + list(users)))
    layer.put('etc/group', ''.join(line + '\n' for line in GROUPS + list(groups)))
    layer.put('www/index.html', '<h1>It works</h1>\n')
    return layer.finish()


def nginx_layer(port):
    layer = Layer()
    for path in ('etc/nginx', 'var/lib', 'var/lib/nginx', 'var/log/nginx'):
        layer.folder(path)
    layer.program('/usr/sbin/nginx')
    layer.put('etc/nginx/nginx.conf', NGINX % port)
    return layer.finish()


def single_file(path, data='', mode=0o644):
    layer = Layer()
    layer.put(path, data, mode)
    return layer.finish()


class Store:
    """FOLDER/blobs/DIGEST and FOLDER/tags/REPOSITORY/TAG, a file that names a digest."""

    def __init__(self, folder):
        self.folder = folder
        self.packed = {}

    def write(self, path, data):
        path = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'wb') as file:
            file.write(data)

    def blob(self, kind, data):
        digest = 'sha256:' + hashlib.sha256(data).hexdigest()
        self.write('blobs/' + digest, data)
        return {'mediaType': OCI + kind, 'digest': digest, 'size': len(data)}

    def layer(self, tar):
        if tar not in self.packed:
            self.packed[tar] = self.blob('layer.v1.tar+gzip', gzip.compress(tar, mtime=0))
        return self.packed[tar]

    def image(self, names, layers, **config):
        document = {'architecture': 'amd64', 'os': 'linux', 'config': config, 'rootfs': {
            'type': 'layers', 'diff_ids': ['sha256:' + hashlib.sha256(tar).hexdigest() for tar in layers]}}
        manifest = {'schemaVersion': 2, 'mediaType': OCI + 'manifest.v1+json',
                    'config': self.blob('config.v1+json', json.dumps(document).encode()),
                    'layers': [self.layer(tar) for tar in layers]}
        digest = self.blob('manifest.v1+json', json.dumps(manifest).encode())['digest']
        for name in names.split():
            self.write('tags/' + name.replace(':', '/'), digest.encode())
        return digest


def build(folder):
    store = Store(folder)
    base = base_layer()
    environment = ['PATH=/usr/sbin:/usr/bin:/bin']
    shell = {'Cmd': ['sh'], 'Env': environment}
    pause = Layer()
    pause.put('pause', compiled(PAUSE), 0o755)
    pause = pause.finish()
    # Tests remove pause:3.9, so what sandboxes are made of must be another image.
    store.image('sandbox/pause:1', [pause], Entrypoint=['/pause'], Labels={'of': 'sandboxes'})
    store.image('pause:3.9', [pause], Entrypoint=['/pause'])
    e2e, tools = 'e2e-test-images/', 'k8s-staging-cri-tools/'
    store.image(e2e + 'busybox:1.29-2', [base], **shell)
    store.image(e2e + 'httpd:2.4.39-4', [base], Env=environment,
                Cmd=['sh', '-c', 'echo httpd: serving /www; exec httpd -f -p 80 -h /www'])
    for name, port in (e2e + 'nginx:1.14-2', 80), (tools + 'hostnet-nginx-amd64:latest', 12003):
        store.image(name, [base, nginx_layer(port)], Env=environment, Cmd=['nginx', '-g', 'daemon off;'])
    store.image(e2e + 'nonewprivs:1.3', [base, single_file('nnp', compiled(WHO), 0o4755)], Env=environment,
                Entrypoint=['/nnp'])
    for name, user in (('uid', '1002'), ('uid-group', '1003:1004'), ('username', 'www-data'),
                       ('username-group', 'www-data:1004')):
        store.image(f'{tools}test-image-user-{name}:latest', [base], User=user, **shell)
    users = base_layer(['default-user:x:1000:1000::/:/bin/sh'],
                       ['default-user:x:1000:', 'group-defined-in-image:x:50000:default-user'])
    store.image(tools + 'test-image-predefined-group:latest', [users], User='1000', **shell)
    tagged = [f'{name}:latest' for name in ('1', '2', '3', 'latest')] + ['tag:test', 'tag:all']
    for name in tagged:
        store.image(f'{tools}test-image-{name}', [base, single_file(name.replace(':', '-'))], **shell)
    store.image(' '.join(f'{tools}test-image-tags:{tag}' for tag in '123'), [base, single_file('tags')], **shell)
    digest = store.image(tools + 'test-image-digest:latest', [base, single_file('digest')], **shell)
    store.write('digest', digest.encode())


class Pulls(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    folder = ''

    def do_GET(self):
        path = self.path.split('?')[0]
        if path == '/v2/':
            return self.answer(200, b'{}', 'application/json')
        wanted = re.fullmatch(r'/v2/([a-z0-9/._-]+)/(manifests|blobs)/([A-Za-z0-9:._-]+)', path)
        if not wanted or '..' in path:
            return self.answer(404)
        repository, kind, name = wanted.groups()
        try:
            if not name.startswith('sha256:'):
                with open(os.path.join(self.folder, 'tags', repository, name)) as file:
                    name = file.read()
            with open(os.path.join(self.folder, 'blobs', name), 'rb') as file:
                data = file.read()
        except OSError:
            return self.answer(404)
        return self.answer(200, data, OCI + 'manifest.v1+json' if kind == 'manifests' else 'application/octet-stream', name)

    do_HEAD = do_GET

    def answer(self, status, data=b'', kind='text/plain', digest=None):
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(data)))
        if digest:
            self.send_header('Docker-Content-Digest', digest)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def main():
    if len(sys.argv) == 3 and sys.argv[1] == 'build':
        build(sys.argv[2])
    elif len(sys.argv) == 4 and sys.argv[1] == 'serve':
        Pulls.folder = sys.argv[2]
        http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[3])), Pulls).serve_forever()
    else:
        sys.exit(__doc__)


if __name__ == '__main__':
    main()
