exec 2>&1
echo "== gcc"
cat > a.c <<'END'
#include <stdio.h>
#include <pthread.h>
#include <math.h>
static void *run(void *p) { *(double *)p = sqrt(2.0); return 0; }
int main(int n, char **v) { pthread_t t; double d; pthread_create(&t, 0, run, &d); pthread_join(t, 0); printf("%s %d %.6f\n", v[1], n, d); return 3; }
END
gcc -O2 -Wall -pipe a.c -o a -lm -pthread && ./a x; echo $?; gcc -static a.c -o s -lm && ./s static; gcc -c -g a.c && nm a.o | grep -c T; ar rcs lib.a a.o && ar t lib.a; size a.o | wc -l; strip a && ./a stripped; objdump -d a.o | grep -c ret; gcc -E a.c | wc -l; echo 'int x = ;' | gcc -xc - -c
echo 'int twice(int x) { return 2 * x; }' > l.c; gcc -shared -fPIC l.c -o libl.so; echo 'int twice(int); int main() { return twice(21); }' | gcc -xc - -L. -ll -Wl,-rpath,'$ORIGIN' -o m; ./m; echo $?
gcc -fsanitize=undefined -xc - -o u <<< 'int main(int n, char **v) { return (n + 2147483646) != 0 && (n << 31) == 5; }' && ./u | head -1
echo "== g++"
cat > b.cc <<'END'
#include <iostream>
#include <map>
#include <thread>
#include <stdexcept>
int main() { std::map<std::string, int> m{{"a", 1}}; std::thread t([&] { m["b"] = 2; }); t.join(); for (auto &[k, v] : m) std::cout << k << v << std::endl; try { throw std::runtime_error("thrown"); } catch (std::exception &e) { std::cout << e.what() << '\n'; } }
END
g++ -O1 -std=c++20 b.cc -o b && ./b
echo "== make"
cat > Makefile <<'END'
all: one two three
%: %.c
	@gcc $< -o $@ && echo made $@ > $@.log
one.c two.c three.c:
	@sleep 0.1; echo 'int main() { return 0; }' > $@
.PHONY: all fail
fail: ; @exit 2
END
make -s -j2; cat *.log; make -j2 -q; echo $?; touch one.c; make -j2 -n | grep -c gcc; make fail; echo $?; make -s -j2 --output-sync all; ls one two three
