# find, grep, sed, awk and diff.
echo "== find"
mkdir -p a/b/c; echo hello world > a/b/f; ln -s f a/b/l; touch -d '2 days ago' a/old; chmod 600 a/old
find a | sort; find a -type l; find a -mtime +1; find a -perm 600; find a -name f -exec wc -c {} +; find a -size -2c -type f; find a -newer a/old -type f
find /usr/share/perl5 -name '*.pm' -print0 | xargs -0 -P2 -n50 cat | wc -c; find a -depth -delete; ls a
find /proc/self/fd -lname '*/text/fd' 5> fd; find / -xdev -maxdepth 1 -not -name work | sort
echo "== grep"
grep -rc root /etc/passwd; grep -n -A1 -B1 daemon /etc/passwd; grep -E '^(root|bin):' /etc/passwd; grep -oP '\d+(?=:)' /etc/group | head -3; grep -q none /etc/passwd; echo $?; grep -r x missing; echo $?
grep -rl 'sub new' /usr/share/perl5 | sort | head -5; printf 'a\0b\n' | grep -c b; egrep -i ROOT /etc/passwd | cut -d: -f1
echo "== sed"
sed -n '2,4{s/:.*//;p}' /etc/passwd; cp /etc/passwd p; sed -i.bak -e '/root/d' -e '$!N;P;D' p; wc -l p.bak p; sed 's/\(.\)\(.\)/\2\1/g' <<< abcd; sed -s -n '$=' p p.bak
echo "== awk"
awk -F: '{n[$7]++} END {for (s in n) print s, n[s]}' /etc/passwd | sort; gawk 'BEGIN {"echo sub" | getline x; print x; print strftime("%Y", 0, 1); printf "%.3f\n", atan2(0,-1)}'
gawk 'BEGIN {cmd = "sort -r"; print "a\nb\nc" |& cmd; close(cmd, "to"); while ((cmd |& getline line) > 0) print line}'; mawk 'END {print NR}' /etc/passwd
echo "== diff"
diff -u <(seq 5) <(seq 2 6) | sed 1,2d; cmp /etc/passwd /etc/group | sed 's/:.*//'; seq 5 > x; diff -u x <(seq 6) > d; patch --version >/dev/null 2>&1 || echo no patch; diff3 x x x | wc -l
