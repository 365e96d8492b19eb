"""The embedded demo: real pictures from scikit-learn and scikit-image in the Waterbirds layout."""
