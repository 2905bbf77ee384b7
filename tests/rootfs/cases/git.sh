export GIT_AUTHOR_DATE=2020-01-01T00:00:00Z GIT_COMMITTER_DATE=2020-01-01T00:00:00Z GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=a@b GIT_PAGER=cat
exec 2>&1
echo "== init-add-commit"
git init -q -b main r; cd r; for i in $(seq 60); do mkdir -p d$((i % 5)); echo "content $i" > d$((i % 5))/f$i; done
git add .; git commit -qm first; git log --format='%H %s'; echo change >> d1/f1; git rm -q d2/f2; git mv d3/f3 moved; git status --short; git diff --stat; git commit -qam second; git log --stat --format=%s -1
echo "== branches"
git checkout -q -b side HEAD~1; echo side > side; git add side; git commit -qm side; git checkout -q main; git merge -q -m merged side; git log --graph --format=%s; git rebase -q HEAD~1 side; git stash list; echo x >> moved; git stash -q; git stash pop -q; git checkout -q -- .; git tag v1; git describe
echo "== gc-fsck"
git gc -q; git count-objects -v | grep -v size; git fsck; git repack -adq; git reflog | wc -l
echo "== clone"
cd ..; git clone -q r c; ls c | wc -l; git clone -q --bare r b.git; git -C c rev-parse HEAD; cd c; git config user.name n; echo more > new; git add new; git commit -qm more; git push -q ../b.git HEAD:refs/heads/other; git -C ../b.git log --format=%s -1 other; git pull -q --ff-only ../b.git main; git fetch -q "file://$PWD/../r" side; git archive HEAD | tar t | wc -l; git format-patch -1 --stdout | head -1; git bundle create -q x.bundle main; git ls-remote x.bundle | wc -l; git worktree add -q ../w HEAD; ls ../w | wc -l; git grep -c content d0 | wc -l; git blame -s d1/f1 | wc -l
