#!/bin/sh
# Makes /opt/venv of an image in the build stage:
#
#   PROGRAMS="NAME..." PACKAGES="NAME..." images/install.sh REQUIREMENTS WHEEL
#
# The wheel has all of our packages and programs, and others bring programs, too; an image keeps
# PROGRAMS and, of ours, PACKAGES.
set -eu

requirements=$1 wheel=$2
venv=/opt/venv
python=$venv/bin/python
tools=/tools/bin

$tools/uv venv --quiet --python "$(command -v python3)" "$venv"
$tools/uv pip install --quiet --python $python --link-mode copy --require-hashes \
  --only-binary :all: -r "$requirements"
$tools/uv pip install --quiet --python $python --link-mode copy --no-deps --offline "$wheel"
site=$($python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

unrecord() { # what the packages' lists of files are not to name, an expression of sed
  sed -i "/$1/d" "$site"/*.dist-info/RECORD
}

for package in zeus_runtime zeus_operator zeus_agent gpu_simulator; do
  case " $PACKAGES " in *" $package "*) continue ;; esac
  rm -rf "${site:?}/$package"
  unrecord "^$package\/"
done
for program in "$venv"/bin/*; do
  name=${program##*/}
  case " $PROGRAMS python python3 " in *" $name "*) continue ;; esac
  case $name in python3.*) continue ;; esac
  rm "$program"
  unrecord "\/bin\/$name,"
done
# When and from which folder uv installed: of this machine, not of the image.
rm -f "$site"/*.dist-info/uv_cache.json "$site"/*.dist-info/direct_url.json
unrecord 'dist-info\/\(uv_cache\|direct_url\).json,'
rm -f $venv/.gitignore $venv/.lock
# Packages' own tests: nobody runs them here.
find "$site" -depth -type d -name tests -exec rm -rf {} +
unrecord '\/tests\/'

# Compiled in one process and one order, so that the same sources give the same bytes, and by content:
# the layers' times are all one.  Not the half of kubernetes that nothing here imports: 30 MB.
PYTHONHASHSEED=0 $python -m compileall -q -j 1 --invalidation-mode unchecked-hash \
  -x "/kubernetes/aio/" "$site"
