-- Remembers that a client deleted a layer from a repository, for all proxies.
-- KEYS: the layer's set of deletions on one registry
-- ARGV: repository, seconds to live, the set's bound
-- Past the bound a random old member makes way.
local deleted, repository, bound = KEYS[1], ARGV[1], tonumber(ARGV[3])
if redis.call('SISMEMBER', deleted, repository) == 0 and redis.call('SCARD', deleted) >= bound then
  redis.call('SPOP', deleted)
end
redis.call('SADD', deleted, repository)
redis.call('EXPIRE', deleted, tonumber(ARGV[2]))
return 1
