# tar with gzip, bzip2, xz and zstd: there and back.
mkdir t; cp -a /usr/share/perl/5.36/unicore t/; ln -s unicore/Name.pm t/l; mkfifo t/fifo; dd if=/dev/zero of=t/sparse bs=1 count=1 seek=1M status=none; ln t/unicore/Name.pm t/hard
for way in z j J --zstd; do
    case $way in -*) o=$way ;; *) o=-$way ;; esac
    echo "== tar$way"
    [ $way = J ] && export XZ_OPT=-1
    tar $o -cSf a.tar t; rm -rf u; mkdir u; tar -xf a.tar -C u; diff -r --no-dereference t u/t 2>&1 | grep -v fifo; (cd u && find t -printf '%p %m %U %y %n %l\n' | sort | md5sum); stat -c %s u/t/sparse; tar -tf a.tar | wc -l
done
echo "== streams"
tar cf - t | gzip -1 | gunzip | tar tf - | wc -l
xz -T2 -c /usr/bin/perl | xz -dc | cmp - /usr/bin/perl && echo same
zstd -q -T2 -c /usr/bin/perl | zstd -dc | cmp - /usr/bin/perl && echo same
zcat <(gzip -c /etc/passwd) | cmp - /etc/passwd; zgrep -c root <(gzip -c /etc/passwd); xzcat <(xz -c /etc/group) | wc -l
echo "== append"
tar cf b.tar -C /etc passwd; tar rf b.tar -C /etc group; tar uf b.tar -C /etc group; tar tvf b.tar --numeric-owner | awk '{print $1, $2, $3, $NF}'; tar --delete -f b.tar passwd; tar tf b.tar; tar df b.tar -C /etc; echo $?
