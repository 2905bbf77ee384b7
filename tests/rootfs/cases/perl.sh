echo "== perl"
perl -e 'print join(",", map { $_ * 2 } 1..4), "\n"; my %h = (a => 1); print exists $h{a}, "\n"; $_ = "x=1"; print "$1\n" if /=(\d)/'
perl -MPOSIX -MSocket -e 'socketpair(A, B, AF_UNIX, SOCK_STREAM, 0); my $p = fork; if (!$p) { syswrite B, "child"; POSIX::_exit(4) } sysread A, my $x, 5; waitpid $p, 0; print "$x ", $? >> 8, "\n"; print POSIX::strftime("%F", gmtime 0), "\n"'
perl -MTime::HiRes=alarm -e '$SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 0.05; select undef, undef, undef, 20 }; print $@'
perl -MIO::Handle -e 'open my $f, "-|", "seq 3" or die; print while <$f>; close $f; print "$?\n"; open F, "<", "/none" or print "$!\n"; print -s "/etc/passwd" > 0, "\n"; print for sort glob "/etc/pass*"'
perl -Mthreads -e 'my @t = map { threads->create(sub { $_[0] ** 2 }, $_) } 1..3; print join(" ", map { $_->join } @t), "\n"'
perl -i -pe 's/a/b/' /dev/null; echo aXb > f; perl -pi.bak -e 's/X/Y/' f; cat f f.bak; prove --version | head -c 8
