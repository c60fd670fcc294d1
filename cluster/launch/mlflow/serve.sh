#!/bin/sh
# Runs the MLflow server in its container: runs and users in PostgreSQL, artifacts in a bucket.
#
# The environment says where, and holds the passwords: DATABASE_HOST, DATABASE_PASSWORD, ALLOWED_HOSTS,
# ARTIFACTS, MLFLOW_AUTH_ADMIN_PASSWORD, MLFLOW_FLASK_SERVER_SECRET_KEY, and those of S3 (AWS_ACCESS_KEY_ID, ...).
# DATABASE_PORT, LISTEN_PORT and WORKERS have defaults.
set -eu
umask 077
database="postgresql://mlflow:${DATABASE_PASSWORD:?}@${DATABASE_HOST:?}:${DATABASE_PORT:-5432}/mlflow"
: "${MLFLOW_AUTH_ADMIN_PASSWORD:?}" "${MLFLOW_FLASK_SERVER_SECRET_KEY:?}"

# MLflow reads the address of the users' database from a file only.
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
export MLFLOW_AUTH_CONFIG_PATH
cat > "$MLFLOW_AUTH_CONFIG_PATH" << EOF
[mlflow]
default_permission = READ
database_uri = $database
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
EOF

# In the environment, because other users of the machine can read the arguments of a process.
export MLFLOW_BACKEND_STORE_URI="$database"
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port "${LISTEN_PORT:-5000}" --workers "${WORKERS:-4}" \
    --allowed-hosts "${ALLOWED_HOSTS:?}" --artifacts-destination "${ARTIFACTS:?}"
