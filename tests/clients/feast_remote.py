"""Feast's `remote` online store, in a process of its own: `feast_remote.py URL REGISTRY PROJECT SERVICE ROWS(JSON)`; prints JSON."""

import json
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
from feast import FeatureStore, RepoConfig  # noqa: E402

url, registry, project, service, rows = *sys.argv[1:5], json.loads(sys.argv[5])
config = RepoConfig(
    project=project,
    provider="local",
    registry=registry if "://" not in registry else {"registry_type": "sql", "path": registry},
    online_store={"type": "remote", "path": url},
    offline_store={"type": "dask"},
    entity_key_serialization_version=3,
    repo_path=tempfile.mkdtemp(),
)
store = FeatureStore(config=config)
found = store.get_online_features(features=store.get_feature_service(service), entity_rows=rows, full_feature_names=True)
print("RESULT" + json.dumps(found.to_dict()))
