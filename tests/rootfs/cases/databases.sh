exec 2>&1
echo "== sqlite3"
sqlite3 x.db 'create table t(a, b); insert into t values(1, "x"), (2, "y"); select sum(a), group_concat(b) from t; create index i on t(a); explain query plan select * from t where a = 1; pragma integrity_check; vacuum;'
seq 20000 | awk 'BEGIN {print "begin;"} {print "insert into t values(" $1 ", " $1 % 7 ");"} END {print "commit; select b, count(*) from t group by b;"}' | sqlite3 x.db; (sqlite3 x.db 'begin exclusive; select 1;' '.shell sleep 0.3' 'commit;' &); sqlite3 -cmd '.timeout 20000' x.db 'select count(*) from t'; sqlite3 x.db .dump | md5sum
echo "== redis"
redis-server --port 0 --unixsocket "$PWD/s" --daemonize yes --save '' --appendonly yes --dir "$PWD" > /dev/null; for i in $(seq 100); do [ -S s ] && redis-cli -s s ping > /dev/null 2>&1 && break; sleep 0.1; done
r="redis-cli -s s"; $r set a b; $r get a; $r lpush l 1 2 3; $r lrange l 0 -1; $r eval 'return redis.call("get", "a")' 0; $r expire a 100; $r bgrewriteaof; for i in $(seq 100); do $r info persistence | grep -qE 'aof_rewrite_(in_progress|scheduled):1' || break; sleep 0.1; done; $r config set save '900 1'; $r bgsave; for i in $(seq 100); do $r info persistence | grep -q 'rdb_bgsave_in_progress:1' || break; sleep 0.1; done; $r info persistence | grep -E 'last_bgsave_status|aof_last_bgrewrite_status' | tr -d '\r'
redis-benchmark -s s -n 2000 -c 20 -t get,set -q > /dev/null; echo $?; $r dbsize; $r shutdown; for i in $(seq 100); do [ -S s ] || break; sleep 0.1; done; ls dump.rdb; redis-check-rdb dump.rdb | tail -1 | cut -d' ' -f4-
