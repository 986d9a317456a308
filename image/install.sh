# Called by the Dockerfile with torch's requirement: fills /opt/venv, and lists in it what it holds (CycloneDX).
set -eu
pip() { /opt/tools/bin/pip --python /opt/venv/bin/python "$@"; }
touch README.md LICENSE NOTICE
mkdir -p dbrnet && echo "__version__ = \"0\"" > dbrnet/__init__.py
pip install -c constraints.txt "$1"
pip install -c constraints.txt '.[nodes,openvino,serve]'
pip uninstall --yes dbrnet # its code comes in a layer of its own
pip install -c constraints.txt --no-deps kfp==2.17.0 # its executor, which needs no other library in a pod
/opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /opt/venv/sbom.cdx.json /opt/venv
