-- Records the traits of a registry. A registry that was untruthful once stays so until the hash expires. A hash that
-- would live longer than ours makes way, as it is not believed.
-- KEYS: the registry's hash
-- ARGV: seconds to live, then fields and values
local left = redis.call('TTL', KEYS[1])
if left == -1 or left > tonumber(ARGV[1]) then
  redis.call('DEL', KEYS[1])
end
for i = 2, #ARGV, 2 do
  if not (ARGV[i] == 'truthful' and redis.call('HGET', KEYS[1], 'truthful') == '0') then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[1], tonumber(ARGV[1]))
return 1
