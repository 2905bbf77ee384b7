# bash: pipes, here-documents, job control, traps, substitution.
echo "== pipes"
seq 1 1000 | grep 7 | sort -rn | head -3
echo a b c | { read x y; echo "$y"; }
false | true; echo "${PIPESTATUS[*]}"
set -o pipefail; yes | head -1; echo $?; set +o pipefail
echo "== here-document"
cat <<END
one $((1 + 1)) $(echo sub)
END
cat <<'END'
$plain `text`
END
cat <<< "a string"
echo "== process-substitution"
diff <(seq 3) <(seq 4)
tee >(wc -l > count) < /etc/services > /dev/null; sleep 0.2; while [ ! -s count ]; do sleep 0.1; done; cat count
echo "== job-control"
set -m
sleep 30 & jobs; kill -STOP %1; until [ "$(jobs -s)" ]; do sleep 0.01; done; jobs -s; kill -CONT %1; kill %1; wait %1; echo $?
(exit 5) & wait $!; echo $?
{ bash -c 'kill -9 $$'; } 2>/dev/null; echo $?
set +m
echo "== traps"
trap 'echo usr1' USR1; kill -USR1 $$
trap 'echo leaving' EXIT
(trap 'echo inner' EXIT; exit 3); echo $?
echo "== coprocess"
coproc sed -u s/a/b/; echo banana >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"; eval "exec ${COPROC[1]}>&-"; wait
echo "== redirections"
exec 5>out; echo five >&5; exec 5>&-; cat out; echo more >> out; wc -l < out; { echo err >&2; } 2>&1 | tr e E
set -o noclobber; echo no > out; echo $?; set +o noclobber
echo "== limits"
ulimit -n; (ulimit -f 1; head -c 5000 /dev/zero > big; echo $?) 2>&1 | tail -1; read -t 0.05 never < <(sleep 2); echo $?
echo "== arithmetic"
echo $((2**62)) ${#PATH} "${PATH%%:*}"; printf '%q %05.1f %x\n' "a b" 3.14159 255; mapfile -t lines < /etc/issue; echo ${#lines[@]}
echo "== other-shell"
dash -c 'for i in 1 2 3; do echo $i; done | while read x; do echo $((x * x)); done'; sh -c 'exit 9'; echo $?
