"""The optional HTTP listener: health for load balancers, metrics, a page that shows the cluster.

It only reads, asks the daemon what the admin socket would answer, and is imported only where
`http.listen` is set.
"""
