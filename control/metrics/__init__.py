# SPDX-License-Identifier: Apache-2.0
"""What earshotd tells Prometheus: `catalogue` declares it, `serving` serves it, the others read it."""
