# ps, pgrep, top and their kin on a small tree of processes.
sleep 100 & a=$!; sh -c 'exec -a renamed sleep 200' & b=$!
for i in $(seq 100); do [ "$(tr '\0' ' ' < /proc/$b/cmdline)" = "renamed 200 " ] && break; sleep 0.05; done
echo "== ps"
ps -o comm,args,stat,ni,user,nlwp -p $a,$b; ps -ef --no-headers > all; awk '{print $1, $8}' all | sort; ps --ppid $$ -o args= > all; grep sleep all; ps -o ppid= -p $a | grep -cw $$; ps aux | head -1; ps -eLo comm > all; sort all | uniq -c; ps -o etimes=,pcpu= -p $a | awk '{print ($1 < 100), NF}'
echo "== pgrep-pkill"
pgrep -x sleep | wc -l; pgrep -f 'renamed 200' | wc -l; pkill -f 'renamed 200'; wait $b; echo $?; pidof sleep > all; wc -w < all
echo "== top"
top -b -n1 -p $a | sed -n 7,8p | awk '{print $NF}'; top -b -n1 | head -2 | tail -1 | grep -o 'Tasks:'; top -b -n2 -d 0.2 | grep -c '^top'
echo "== others"
free -b | awk 'NR==2 {print ($2 > 0), ($3 <= $2)}'; uptime | grep -c 'load average'; vmstat | wc -l; for i in 1 2 3 4 5; do pstree -a $$ | grep -o 'sleep 100' && break; done; kill -l 9; w -h; pwdx $a | cut -d' ' -f2; fuser -v . 2>/dev/null | wc -w; tload -V | cut -c1-5; slabtop -V | cut -c1-7; watch -V | cut -c1-5; pmap $a | tail -1 | cut -c1-6; pmap -x $a | grep -c stack; killall sleep; wait $a; echo $?; lscpu 2>/dev/null | grep -c Architecture; getconf PAGESIZE; nproc | wc -l; dmesg >/dev/null 2>&1; sysctl -n kernel.ostype
