exec 2>&1
echo "== node"
cat > a.js <<'END'
const { execSync, spawn } = require('child_process'), fs = require('fs'), net = require('net'), { Worker } = require('worker_threads'), crypto = require('crypto');
console.log([1, 2, 3].map(x => x * 2), process.platform, execSync('echo sub').toString().trim());
const server = net.createServer(s => s.pipe(s)).listen('./sock', () => {
  const c = net.connect('./sock', () => c.write('echoed'));
  c.on('data', d => { console.log(d.toString()); c.end(); server.close(() => {
    const w = new Worker('require("worker_threads").parentPort.postMessage(6 * 7)', { eval: true });
    w.on('message', m => { console.log(m);
      fs.promises.writeFile('w', 'text').then(() => fs.promises.readFile('w', 'utf8')).then(t => { console.log(t, fs.statSync('w').size);
        crypto.pbkdf2('a', 'b', 1000, 8, 'sha256', (e, k) => { console.log(k.toString('hex'));
          const watcher = fs.watch('.', (kind, name) => { if (name === 'seen') { console.log('watched'); watcher.close();
            const p = spawn('sh', ['-c', 'cat; exit 5']); p.stdout.on('data', d => console.log(d.toString())); p.on('close', c => console.log(c)); p.stdin.end('stdin'); } });
          fs.writeFileSync('seen', ''); }); }); }); }); });
});
END
node a.js; node -e 'process.on("SIGTERM", () => { console.log("term"); process.exit(6) }); setTimeout(() => process.kill(process.pid, "SIGTERM"), 10); setTimeout(() => {}, 20000)'; echo $?
echo "== go"
cat > a.go <<'END'
package main
import ("fmt"; "os"; "sync"; "time"; "strings"; "os/exec")
func main() {
	var wait sync.WaitGroup; var mutex sync.Mutex; sum := 0
	for i := 0; i < 200; i++ { wait.Add(1); go func(i int) { defer wait.Done(); time.Sleep(time.Millisecond); mutex.Lock(); sum += i; mutex.Unlock() }(i) }
	wait.Wait()
	out, err := exec.Command("sh", "-c", "echo sub").Output()
	fmt.Println(sum, strings.ToUpper(string(out)), err, os.Args[1:])
	defer func() { fmt.Println(recover() != nil) }()
	var p *int; *p = 1
}
END
export CGO_ENABLED=0 HOME=/root; go build -o a a.go && ./a x y; go vet a.go; echo $?; go version | cut -d' ' -f1-2,4; go run a.go z | sed -n 1p; gofmt -l a.go
