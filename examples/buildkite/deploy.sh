#!/bin/sh
# Stands for whatever deploys: it finds the credentials in its environment, and
# its output shows *** instead of them.
set -eu
echo "pushing the image with ${REGISTRY_TOKEN:?}"
echo "deploying with ${DEPLOY_TOKEN:?}"
