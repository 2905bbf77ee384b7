# Debuggers and tracers of Debian: ptrace(2).
echo "== strace"
strace -o out -e trace=openat,write,exit_group cat /etc/hostname; grep -v ld.so out | sed 's/0x[0-9a-f]*/ADDRESS/g'
strace -f -o out -e trace=process sh -c 'true & wait; (exit 3); /bin/true; exit 4'; echo $?; sed 's/^[0-9]* *//' out | grep -oE '^(execve."[^"]*"|exit_group|\+\+\+ exited with [0-9]*)' | sort | uniq -c
strace -c -o out true; grep -c execve out; { strace -o out -e trace=none -e signal=all sh -c 'kill -USR1 $$'; } 2>/dev/null; echo $?; sed 's/si_pid=[0-9]*/si_pid=N/' out
sh -c 'while :; do sleep 0.1; done' & target=$!; strace -o out -p $target 2>/dev/null & tracer=$!; until grep -q clone out 2>/dev/null || grep -q fork out; do sleep 0.1; done; grep -c TracerPid:.$tracer /proc/$target/status; kill -INT $tracer; wait $tracer; grep -c TracerPid:.0 /proc/$target/status; kill $target; wait $target; echo $?
strace -o out -e inject=getuid:retval=77 id -u 2>/dev/null; strace -o out -yy -e trace=connect python3 -c 'import threading; t = threading.Thread(target=print, args=("thread",)); t.start(); t.join()'; cat out
echo "== gdb"
cat > p.c <<'END'
#include <stdio.h>
int depth(int n) { return n == 0 ? 7 : depth(n - 1) + 1; }
int global = 5;
int main() { int x = depth(3); global += x; printf("%d\n", global); *(volatile int *)0 = 1; return 0; }
END
gcc -g -O0 p.c -o p
gdb -q -nx -batch -ex 'set can-use-hw-watchpoints 0' -ex 'break depth if n == 0' -ex run -ex bt -ex 'p n' -ex finish -ex 'watch global' -ex 'delete 1' -ex c -ex 'p global' -ex 'set var global = 50' -ex 'info registers rip' -ex stepi -ex next -ex c -ex 'p $_siginfo.si_signo' -ex bt ./p 2>&1 | grep -vE 'libthread_db|debuginfod|warning|process [0-9]' | sed 's/0x[0-9a-f]*/ADDRESS/g'
cat > t.c <<'END'
#include <pthread.h>
#include <unistd.h>
static void *run(void *p) { while (1) pause(); }
int main() { pthread_t t; pthread_create(&t, 0, run, 0); pthread_join(t, 0); }
END
gcc -g t.c -o t -pthread; ./t & target=$!; sleep 0.3
gdb -q -nx -batch -p $target -ex 'info threads' -ex 'thread apply all bt 3' -ex detach 2>&1 | grep -E '^ *(\*|#|[12] )|Detaching' | grep -oE 'main|run|pause|Detaching' | sort -u; kill $target; wait $target; echo $?
