-- Records that a repository holds a layer.
-- KEYS: the layer's set of sources on one registry, the layer's flags
-- ARGV: repository, the registry's field, seconds to live, when that ends (epoch seconds), the set's bound,
--       the size in bytes or '', '1' to set must-mount or ''
local sources, flags = KEYS[1], KEYS[2]
local repository, field, ttl, ends, bound = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])

redis.call('SADD', sources, repository)
while redis.call('SCARD', sources) > bound do
  local victim = redis.call('SRANDMEMBER', sources)
  if victim ~= repository then
    redis.call('SREM', sources, victim)
  end
end
redis.call('EXPIRE', sources, ttl)

redis.call('HSET', flags, field, ends)
if ARGV[6] ~= '' then
  redis.call('HSET', flags, 'size', ARGV[6])
end
if ARGV[7] ~= '' then
  redis.call('HSET', flags, 'must_mount', '1')
end
if redis.call('HEXISTS', flags, 'must_mount') == 1 then
  redis.call('PERSIST', flags)
elseif redis.call('TTL', flags) < ttl then
  redis.call('EXPIRE', flags, ttl)
end
return 1
